"""The tags that a run, a model version and an image carry alike, so that nobody has to guess where one came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_training.records import BlobManifest, CodeManifest, RunResult

SITE = "site"
RUN_ID = "run_id"
RECEIPT = "residency_receipt"
DAG_ID = "dag_id"
DAG_RUN_ID = "dag_run_id"
# Written on a model version when it has an image: the digest of it; or when its DAG run is over and there is none: why.
IMAGE = "image"
INCOMPLETE = "incomplete"
# And where it is in service: this, the site and the target.
DEPLOYED_PREFIX = "deployed."
METRIC_PREFIX = "metric."


def run_lineage(
    *, site: str, data: BlobManifest, code: CodeManifest, dag_id: str, dag_run_id: str, run_id: str, attempt: int
) -> dict[str, str]:
    """Return the lineage of a run.

    :param site: the site's name.
    :param data: the verified blobs; only their fingerprint is named, for names may tell something too.
    :param code: the files of the snapshot.
    :param dag_id: the DAG's id.
    :param dag_run_id: the DAG run's id.
    :param run_id: the run's id.
    :param attempt: 1 for the first submission of the DAG run.
    """
    return {
        SITE: site,
        "data_fingerprint": data.fingerprint,
        "code_digest": code.digest,
        DAG_ID: dag_id,
        DAG_RUN_ID: dag_run_id,
        RUN_ID: run_id,
        "attempt": str(attempt),
    }


def run_arguments(grant_path: str, fingerprint: str, parameters: Mapping[str, object]) -> list[str]:
    """Return the runner's arguments; Azure ML stores them, so they name the grant and never hold one.

    :param grant_path: where the grant is on the VM.
    :param fingerprint: the data's fingerprint.
    :param parameters: what the script is given.
    """
    named = [f"{name}={value}" for name, value in sorted(parameters.items())]
    return ["--grant", grant_path, "--fingerprint", fingerprint, *(word for one in named for word in ("--param", one))]


def model_lineage(
    *, site: str, data: BlobManifest, code: CodeManifest, dag_id: str, dag_run_id: str, result: RunResult
) -> dict[str, str]:
    """Return the lineage of a model version: that of its run, and the run's metrics.

    :param site: the site's name.
    :param data: the verified blobs.
    :param code: the files of the snapshot.
    :param dag_id: the DAG's id.
    :param dag_run_id: the DAG run's id.
    :param result: the run that made the model.
    """
    return {
        "site": site,
        "data_fingerprint": data.fingerprint,
        "code_digest": code.digest,
        DAG_ID: dag_id,
        DAG_RUN_ID: dag_run_id,
        RUN_ID: result.run_id,
        **metric_tags(result.metrics),
    }


def origin(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a model version that tell where it came from, without those that tell what became of it.

    Only the first are the same whenever somebody looks, and so only they go into an image.

    :param tags: all tags of the version.
    """
    later = {IMAGE, INCOMPLETE}
    return {name: value for name, value in tags.items() if name not in later and not name.startswith(DEPLOYED_PREFIX)}


def metric_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return metrics as tags, six significant digits each.

    :param metrics: metric name → value.
    """
    return {f"{METRIC_PREFIX}{name}": f"{value:.6g}" for name, value in sorted(metrics.items())}
