"""What DAG runs that are over have left is found, cleaned up and said; what still goes on is left alone."""

from __future__ import annotations

import io
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from edge_training import grants
from edge_training.exceptions import ServiceError
from edge_training.hooks import azure_ml_calls as calls
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.hooks.azure_ml_versions import AzureMLVersionsHook
from edge_training.hooks.container_registry import ContainerRegistryHook
from edge_training.images.media_types import OCI_CONFIG, OCI_MANIFEST, Descriptor, digest_of
from edge_training.operators.grant import GrantDataAccessOperator
from edge_training.operators.janitor import SweepSiteOperator
from edge_training.operators.leftovers import cancel_abandoned_runs
from edge_training.operators.model import RegisterModelOperator
from edge_training.records import ModelVersion, RunResult
from tests.integration.training.conftest import SCRIPTS, registry_fields
from tests.integration.training.test_runs import GOOD, remove_tags, wait_for_end

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.airflow_harness import AirflowConnection, FakeComms
    from tests.integration.training.conftest import Pipeline

    MakeProject = Callable[[str], Path]

MODEL = "left-over"
REPOSITORY = "models/left-over"


@pytest.fixture(autouse=True)
def registry(connections: dict[str, Any], airflow_connection: AirflowConnection) -> None:
    """Give Airflow the site's registry."""
    airflow_connection("container_registry", **registry_fields(connections))


def sweep(**fields: Any) -> SweepSiteOperator:
    defaults = {"site": "test", "dag_id": "unit", "model_name": MODEL, "repository": REPOSITORY}
    return SweepSiteOperator(task_id="sweep", scripts_folder=str(SCRIPTS), **{**defaults, **fields})


def push_image(version: ModelVersion, run_id: str) -> str:
    """Push an image without layers whose annotation names a run, as the image of a version, and return its digest."""
    config = b"{}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [],
        "annotations": {"edge-training.run_id": run_id},
    }
    body = json.dumps(manifest).encode()
    with ContainerRegistryHook().client() as client:
        blob = Descriptor(OCI_CONFIG, digest_of(config), len(config))
        client.put_blob(REPOSITORY, blob, lambda: io.BytesIO(config))
        client.put_manifest(REPOSITORY, f"v{version.version}", body, OCI_MANIFEST)
    return digest_of(body)


def tags_of(version: ModelVersion) -> dict[str, str]:
    (found,) = [one for one in AzureMLVersionsHook().versions(version.name, {}) if one.version == version.version]
    return found.tags


def test_a_run_and_a_grant_whose_dag_run_is_over_are_swept_and_others_are_left_alone(
    pipeline: Pipeline, project: MakeProject, comms: FakeComms
) -> None:
    submission = pipeline.submission("sample", project("import time; time.sleep(300)"), experiment="swept")
    run = pipeline.value(submission)
    # Of a DAG run that died before it had submitted anything, so that no runner removes it.
    grant = GrantDataAccessOperator(task_id="grant", manifest=submission.data, lifetime=timedelta(minutes=10))
    assert pipeline.run_task(grant, run_id="died early").state == "success"
    swept = pipeline.value(sweep(experiment="swept"))
    assert (swept["cancelled"], swept["removed_grants"]) == ([], [])
    comms.dag_runs_over |= {pipeline.run_id, "died early"}
    swept = pipeline.value(sweep(experiment="swept"))
    assert swept["cancelled"] == [run["run_id"]]
    assert grants.grant_name("unit", "died early") in swept["removed_grants"]
    assert wait_for_end(run["run_id"]) == "Canceled"


def test_a_run_that_no_task_claims_is_cancelled_once_it_is_old_enough_and_those_of_others_never(
    pipeline: Pipeline, project: MakeProject, caplog: pytest.LogCaptureFixture
) -> None:
    submission = pipeline.submission("sample", project("import time; time.sleep(300)"), experiment="untold")
    run_id = pipeline.value(submission)["run_id"]
    remove_tags(run_id, [*AzureMLHook().look_up(run_id).tags])
    hook, log = AzureMLHook(), logging.getLogger("sweep")

    def cancelled(untold_for: timedelta) -> list[str]:
        return cancel_abandoned_runs(hook, "test", "untold", lambda *_: True, cast("Any", log), untold_for)

    assert cancelled(timedelta(hours=1)) == []
    hook.tag_run(run_id, {"site": "another"})
    assert cancelled(timedelta(0)) == []
    remove_tags(run_id, ["site"])
    assert cancelled(timedelta(0)) == [run_id]
    assert f"Cancelling run {run_id}" in caplog.text
    assert "no task has written its lineage for 0:00:00" in caplog.text
    assert wait_for_end(run_id) == "Canceled"


def test_a_version_whose_dag_run_ended_without_an_image_is_marked_once_and_completed_when_the_image_comes(
    pipeline: Pipeline, project: MakeProject, comms: FakeComms, capsys: pytest.CaptureFixture[str]
) -> None:
    register = registration(pipeline, project)
    version = ModelVersion.from_json(pipeline.value(register))
    nothing: dict[str, Any] = {"completed_versions": [], "incomplete_versions": []}

    def swept() -> dict[str, Any]:
        return {name: ids for name, ids in pipeline.value(sweep(experiment="left")).items() if name in nothing}

    assert swept() == nothing  # its DAG run goes on: the image may still come
    comms.dag_runs_over.add(pipeline.run_id)
    assert swept() == nothing | {"incomplete_versions": [version.model_id]}
    assert f"Model {version.model_id} has no image" in capsys.readouterr().out
    assert pipeline.run_id in tags_of(version)["incomplete"]
    assert tags_of(version)["run_id"] == version.run_id  # the lineage is still there
    assert swept() == nothing

    push_image(version, "the run of a workspace that is gone")
    assert swept() == nothing

    digest = push_image(version, version.run_id)
    # The next DAG run of the site does it too, before it registers its own.
    assert ModelVersion.from_json(pipeline.value(register)).model_id == version.model_id
    assert (tags_of(version)["image"], tags_of(version)["incomplete"]) == (digest, "")
    assert swept() == nothing


def test_of_two_tries_that_register_at_once_the_first_counts_and_the_other_version_is_deleted(
    pipeline: Pipeline, project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = registration(pipeline, project)
    run_id = str(register.result["run_id"])
    both, send = threading.Barrier(2), calls.register_model

    def when_the_other_has_looked(*words: Any, **named: Any) -> ModelVersion:
        both.wait(60)
        return send(*words, **named)

    monkeypatch.setattr(calls, "register_model", when_the_other_has_looked)

    def one_try() -> ModelVersion:
        return AzureMLHook().register_model(
            run_id=run_id, name="at-once", path="outputs/model.onnx", tags={"run_id": run_id}, properties={}
        )

    with ThreadPoolExecutor(2) as pool:
        made = [task.result() for task in [pool.submit(one_try), pool.submit(one_try)]]
    assert made[0] == made[1]
    assert AzureMLVersionsHook().versions("at-once", {}) == [made[0]]
    assert made[0].version == 1


def test_a_second_version_of_a_run_whose_try_was_killed_is_deleted_by_whoever_comes_next(
    pipeline: Pipeline, project: MakeProject, comms: FakeComms, capsys: pytest.CaptureFixture[str]
) -> None:
    register = registration(pipeline, project)
    first = ModelVersion.from_json(pipeline.value(register))

    def register_once_more() -> None:
        workspace = AzureMLHook().workspace
        again = calls.register_model(
            workspace, run_id=first.run_id, name=MODEL, path="outputs/model.onnx", tags=first.tags, properties={}
        )
        assert again.version > first.version

    def of_the_run() -> list[ModelVersion]:
        return AzureMLVersionsHook().versions(MODEL, {"run_id": first.run_id})

    register_once_more()
    assert ModelVersion.from_json(pipeline.value(register)) == first
    assert "two tries of the task registered at once" in capsys.readouterr().out
    assert [one.version for one in of_the_run()] == [first.version]

    register_once_more()
    comms.dag_runs_over.add(pipeline.run_id)
    pipeline.value(sweep(experiment="left"))
    assert [one.version for one in of_the_run()] == [first.version]
    assert pipeline.run_id in tags_of(first)["incomplete"]


def test_a_model_is_registered_also_when_earlier_ones_cannot_be_settled(
    pipeline: Pipeline,
    project: MakeProject,
    connections: dict[str, Any],
    comms: FakeComms,
    airflow_connection: AirflowConnection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register = registration(pipeline, project)
    version = ModelVersion.from_json(pipeline.value(register))
    comms.dag_runs_over.add(pipeline.run_id)
    airflow_connection("container_registry", **{**registry_fields(connections), "password": "not the password"})
    assert ModelVersion.from_json(pipeline.value(register)).model_id == version.model_id
    assert f"Earlier versions of model '{MODEL}' were not settled" in capsys.readouterr().out
    assert isinstance(pipeline.run(sweep(experiment="left")).error, ServiceError)


def registration(pipeline: Pipeline, project: MakeProject) -> RegisterModelOperator:
    """Return the registering task of a run that has completed."""
    submission = pipeline.submission("sample", project(GOOD), experiment="left")
    result = RunResult.from_json(pipeline.poll(pipeline.value(submission)).value)
    return RegisterModelOperator(
        task_id="register_model",
        site="test",
        model_name=MODEL,
        model_file="model.onnx",
        repository=REPOSITORY,
        data=submission.data,
        code=submission.code,
        result=result.to_json(),
    )
