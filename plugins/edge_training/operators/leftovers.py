"""What DAG runs that are over can have left in Azure ML, and how it is cleaned up: runs that go on, versions without an image."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from edge_training.lifecycle import is_run_id, seconds_between
from edge_training.lineage import DAG_ID, DAG_RUN_ID, IMAGE, INCOMPLETE, RUN_ID, SITE

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk.types import Logger

    from edge_training.hooks.azure_ml import AzureMLHook
    from edge_training.hooks.azure_ml_records import ListedRun
    from edge_training.hooks.azure_ml_versions import AzureMLVersionsHook
    from edge_training.images.registry import RegistryClient
    from edge_training.records import ModelVersion

UNTOLD_FOR = timedelta(hours=1)
"""A run that has had no lineage for so long is waited for by no try of a task."""

LABEL_OF_RUN = f"edge-training.{RUN_ID}"
"""The annotation of an image that names the run of its model; see ``images/model_image.py``."""


def cancel_abandoned_runs(
    hook: AzureMLHook,
    site: str,
    experiment: str,
    is_over: Callable[[str, str], bool],
    log: Logger,
    untold_for: timedelta = UNTOLD_FOR,
) -> list[str]:
    """Cancel the runs of a site that go on although nobody waits for them, and return their ids.

    :param hook: the workspace.
    :param site: the site's name, the value of the tag ``site``.
    :param experiment: the site's experiment.
    :param is_over: tells of a DAG and a DAG run whether it is over, or does not exist any more.
    :param log: where to say it.
    :param untold_for: how long a run may be without lineage.
    :raises ServiceError: when Azure ML cannot be asked.
    """
    abandoned: list[str] = []
    for run in hook.runs_tagged({}, experiment):
        if why := _why_abandoned(run, site, is_over, untold_for):
            log.warning("Cancelling run %s (%s): %s.", run.status.run_id, run.status.state, why)
            hook.cancel(run.status.run_id)
            abandoned.append(run.status.run_id)
    return abandoned


def _why_abandoned(run: ListedRun, site: str, is_over: Callable[[str, str], bool], untold_for: timedelta) -> str:
    """Return why nobody waits for a run, or ``""``."""
    dag_id, dag_run_id = run.tags.get(DAG_ID), run.tags.get(DAG_RUN_ID)
    if dag_id and dag_run_id:
        over = run.tags.get(SITE) == site and is_over(dag_id, dag_run_id)
        return f"its DAG run {dag_run_id} is over" if over else ""
    # Somebody else's, or ours and sent a moment ago: the tags come with a second request, from the next try when a worker was killed.
    if SITE in run.tags or not is_run_id(run.status.run_id):
        return ""
    age = seconds_between(run.created, datetime.now(UTC).isoformat())
    return f"no task has written its lineage for {untold_for}" if age > untold_for.total_seconds() else ""


@dataclass(frozen=True)
class Settled:
    """What became of the versions that nobody works on any more.

    :param completed: ids of those whose image was found; it stands on the version now.
    :param incomplete: ids of those that have no image; a tag says so now.
    """

    completed: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)


def settle_versions(
    hook: AzureMLVersionsHook,
    registry: RegistryClient,
    model: tuple[str, str],
    site: str,
    is_over: Callable[[str, str], bool],
    log: Logger,
) -> Settled:
    """Write on each version of a site's model whose DAG run is over which image it has, or that it has none.

    A DAG run may end between the registration of its model and its image. Whoever chooses a version to deploy shall see that. When an
    image turns up later, because a person cleared the task that builds it, the version is completed then.

    :param hook: the workspace.
    :param registry: the registry of the images.
    :param model: the model's name, and the repository of its images.
    :param site: the site's name, the value of the tag ``site``.
    :param is_over: tells of a DAG and a DAG run whether it is over, or does not exist any more.
    :param log: where to say it.
    :raises ServiceError: when Azure ML or the registry cannot be asked.
    """
    settled = Settled()
    name, repository = model
    versions = hook.versions(name, {"site": site})
    # Newest first, so that the first one of each run is what stays.
    first_of_run = {version.run_id: version.version for version in versions}
    for version in versions:
        dag_id, dag_run_id = version.tags.get(DAG_ID), version.tags.get(DAG_RUN_ID)
        if IMAGE in version.tags or not dag_id or not dag_run_id or not is_over(dag_id, dag_run_id):
            continue
        if version.run_id and first_of_run[version.run_id] != version.version:
            # Two tries registered it at once, and the one that did so later was killed then.
            hook.model_of_run(name, version.run_id)
            continue
        digest = image_of(registry, repository, version)
        if digest:
            log.info("Model %s: completing it with its image %s.", version.model_id, digest)
            hook.tag_version(version, {IMAGE: digest, **({INCOMPLETE: ""} if INCOMPLETE in version.tags else {})})
            settled.completed.append(version.model_id)
        elif INCOMPLETE not in version.tags:
            log.warning(
                "Model %s has no image, and its DAG run %s is over: marking it '%s'. To make one, clear build_and_push_image there.",
                version.model_id,
                dag_run_id,
                INCOMPLETE,
            )
            hook.tag_version(version, {INCOMPLETE: f"DAG run {dag_run_id} ended before an image was made"})
            settled.incomplete.append(version.model_id)
    return settled


def image_of(registry: RegistryClient, repository: str, version: ModelVersion) -> str:
    """Return the digest of a version's image, or ``""`` when there is none.

    :param registry: the registry.
    :param repository: where the images of the model are.
    :param version: the version; its tag in the registry is ``v`` and its number.
    :raises ServiceError: when the registry cannot be asked.
    """
    manifest = registry.find_manifest(repository, f"v{version.version}")
    if manifest is None:
        return ""
    annotations = json.loads(manifest.body).get("annotations") or {}
    # A workspace that was made anew counts its versions from 1 again; the tag may be that of another model.
    return manifest.digest if annotations.get(LABEL_OF_RUN) == version.run_id else ""
