"""The tags that a run, a model version and an image carry alike, so that nobody has to guess where one came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_training.records import BlobManifest, CodeManifest, RunResult

RUN_ID = "run_id"
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
        "site": site,
        "data_fingerprint": data.fingerprint,
        "code_digest": code.digest,
        "dag_id": dag_id,
        "dag_run_id": dag_run_id,
        RUN_ID: run_id,
        "attempt": str(attempt),
    }


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
        "dag_id": dag_id,
        "dag_run_id": dag_run_id,
        RUN_ID: result.run_id,
        **metric_tags(result.metrics),
    }


def metric_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return metrics as tags, six significant digits each.

    :param metrics: metric name → value.
    """
    return {f"{METRIC_PREFIX}{name}": f"{value:.6g}" for name, value in sorted(metrics.items())}
