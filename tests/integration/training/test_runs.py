"""A run that goes wrong says so, with its own error; a run that went well is found again by the next try."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import (
    ConfigurationError,
    ModelGateError,
    ResidencyError,
    RunCanceledError,
    RunFailedError,
    RunTimeoutError,
)
from edge_training.hooks import azure_ml_calls as calls
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.operators.model import RegisterModelOperator
from edge_training.records import ModelVersion, RunHandle, RunResult
from edge_training.retries import TypedRetryPolicy
from edge_training.triggers.run import RunTrigger
from tests.integration.training.conftest import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.airflow_harness import FakeComms
    from tests.integration.training.conftest import Pipeline

    MakeProject = Callable[[str], Path]

# Enough of a project: it leaves a model and one metric.
GOOD = """
import edge_context
edge_context.log_metric("accuracy", 0.75)
edge_context.save_model(b"\\x08\\x08:\\x00B\\x02\\x10\\x11", "model.onnx")  # the least that is an ONNX model
"""


def events(trigger: RunTrigger) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(collect())


def test_a_run_is_submitted_once_registered_once_and_found_by_every_later_try(
    pipeline: Pipeline, project: MakeProject
) -> None:
    submission = pipeline.submission("sample", project(GOOD), experiment="good")
    first = RunHandle.from_json(pipeline.value(submission))
    second = RunHandle.from_json(pipeline.run(submission, try_number=2).value)
    assert (first.decision, second.decision) in {("submitted", "attached"), ("submitted", "adopted")}
    assert first.run_id == second.run_id

    outcome = pipeline.poll(second.to_json())
    assert outcome.error is None
    result = RunResult.from_json(outcome.value)
    assert result.metrics["accuracy"] == 0.75
    third = RunHandle.from_json(pipeline.run(submission, try_number=3).value)
    assert (third.run_id, third.decision) == (first.run_id, "adopted")

    fields: dict[str, Any] = {
        "task_id": "register_model",
        "site": "test",
        "model_name": "sample",
        "model_file": "model.onnx",
        "data": submission.data,
        "code": submission.code,
        "result": outcome.value,
    }
    short = pipeline.run(RegisterModelOperator(**fields, minimum_metrics={"accuracy": 0.9})).error
    assert isinstance(short, ModelGateError)
    hook = AzureMLHook()
    assert hook.model_of_run("sample", result.run_id) is None

    model = ModelVersion.from_json(pipeline.value(RegisterModelOperator(**fields)))
    again = ModelVersion.from_json(pipeline.run(RegisterModelOperator(**fields), try_number=2).value)
    assert model == again
    assert model.tags["metric.accuracy"] == "0.75"
    assert model.tags["dag_run_id"] == pipeline.run_id

    cleared = RunHandle.from_json(pipeline.run(submission, try_number=4, max_tries=5).value)
    assert cleared.run_id != first.run_id
    assert cleared.decision == "submitted"
    hook.cancel(cleared.run_id)


@pytest.mark.parametrize("waits", [False, True], ids=["submit_experiment", "poll_run"])
def test_a_run_whose_lineage_was_never_written_gets_it_from_the_next_try(
    pipeline: Pipeline, project: MakeProject, *, waits: bool
) -> None:
    submission = pipeline.submission("sample", project(GOOD), experiment="untold")
    first = RunHandle.from_json(pipeline.value(submission))
    hook = AzureMLHook()
    told = dict(hook.look_up(first.run_id).tags)
    remove_tags(first.run_id, [name for name in told if name != "attempt"])
    assert hook.look_up(first.run_id).tags == {"attempt": "1"}
    if waits:
        assert pipeline.poll(first.to_json()).error is None
    else:
        assert RunHandle.from_json(pipeline.run(submission, try_number=2).value).run_id == first.run_id
    assert hook.look_up(first.run_id).tags == told


def remove_tags(run_id: str, names: list[str]) -> None:
    """Do as if the worker had been killed before it wrote them."""
    AzureMLHook()._call("forget tags", lambda workspace: calls.get_run(workspace, run_id).remove_tags(names))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise ValueError('the column age is not there')", "the column age is not there"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import edge_context; edge_context.log_metric('accuracy', 1.0)", "model"),
    ],
    ids=["raises", "is killed", "writes no model"],
)
def test_a_script_that_goes_wrong_fails_the_task_with_its_own_error_and_registers_nothing(
    pipeline: Pipeline, project: MakeProject, script: str, said: str
) -> None:
    run = pipeline.value(pipeline.submission("sample", project(script)))
    outcome = pipeline.poll(run)
    assert outcome.state == "failed"  # asking again for the same run cannot help
    assert isinstance(outcome.error, RunFailedError)
    assert outcome.error.run_id == run["run_id"]
    assert said in str(outcome.error)
    assert run["portal_url"] in str(outcome.error)
    assert AzureMLHook().model_of_run("sample", run["run_id"]) is None


def test_after_a_run_that_failed_a_retry_submits_the_next_attempt(pipeline: Pipeline, project: MakeProject) -> None:
    submission = pipeline.submission("sample", project("raise SystemExit(3)"))
    first = RunHandle.from_json(pipeline.value(submission))
    assert isinstance(pipeline.poll(first.to_json()).error, RunFailedError)
    second = RunHandle.from_json(pipeline.run(submission, try_number=2).value)
    assert (second.attempt, second.decision) == (2, "submitted")
    AzureMLHook().cancel(second.run_id)


def test_after_a_run_that_failed_a_retry_of_the_waiting_task_submits_the_next_attempt_with_a_grant_of_its_own(
    pipeline: Pipeline, project: MakeProject
) -> None:
    run = pipeline.value(pipeline.submission("sample", project("raise ValueError('still wrong')")))
    assert isinstance(pipeline.poll(run).error, RunFailedError)
    error = pipeline.run(pipeline.waiting(run), try_number=2).error
    assert isinstance(error, RunFailedError)
    assert error.run_id == run["run_id"].removesuffix("1") + "2"
    assert "still wrong" in str(error)  # and not a word of a missing grant


def test_a_waiting_task_that_is_cleared_alone_trains_anew_and_cancels_the_run_that_nobody_waits_for(
    pipeline: Pipeline, project: MakeProject
) -> None:
    run = pipeline.value(pipeline.submission("sample", project("import time; time.sleep(300)")))
    first = pipeline.run(pipeline.waiting(run, deferrable=True))
    assert first.state == "deferred"
    # When Airflow's own timeout of a deferral expires, nobody is told and the run goes on; so the trigger keeps the limit.
    assert first.message.trigger_timeout is None
    cleared = pipeline.run(pipeline.waiting(run, deferrable=True), try_number=2, max_tries=5)
    assert cleared.state == "deferred"
    second = cleared.message.next_kwargs["run"]
    assert second["run_id"] != run["run_id"]
    assert wait_for_end(run["run_id"]) == "Canceled"
    AzureMLHook().cancel(second["run_id"])
    assert wait_for_end(second["run_id"]) == "Canceled"


@pytest.mark.parametrize(("state", "ends"), [("failed", True), (None, True), ("running", False)])
def test_only_a_person_s_action_cancels_the_run_of_a_task_that_is_signalled(
    pipeline: Pipeline, project: MakeProject, comms: FakeComms, state: str | None, ends: bool
) -> None:
    outcome = pipeline.run(pipeline.submission("sample", project("import time; time.sleep(60)")))
    run = outcome.value
    comms.task_states["submit_experiment"] = state
    outcome.context["ti"].task.on_kill()
    if ends:
        assert wait_for_end(run["run_id"]) == "Canceled"
    else:
        assert AzureMLHook().get_run(run["run_id"]).state not in {"CancelRequested", "Canceled"}
        AzureMLHook().cancel(run["run_id"])


@pytest.mark.parametrize(("state", "ends"), [("failed", True), ("deferred", False)])
def test_a_trigger_that_another_triggerer_took_over_cancels_nothing(
    pipeline: Pipeline, project: MakeProject, comms: FakeComms, state: str, ends: bool
) -> None:
    run = pipeline.value(pipeline.submission("sample", project("import time; time.sleep(60)")))
    comms.task_states["poll_run"] = state
    trigger = RunTrigger(run["run_id"], "azure_ml", 0.5, time.time() + 60)
    trigger._task_instance = SimpleNamespace(dag_id="d", task_id="poll_run", run_id=pipeline.run_id, map_index=-1)
    asyncio.run(trigger.on_kill())
    if ends:
        assert wait_for_end(run["run_id"]) == "Canceled"
    else:
        assert AzureMLHook().get_run(run["run_id"]).state not in {"CancelRequested", "Canceled"}
        AzureMLHook().cancel(run["run_id"])


def test_a_run_over_its_time_is_cancelled_and_the_setting_is_named(pipeline: Pipeline, project: MakeProject) -> None:
    run = pipeline.value(pipeline.submission("sample", project("import time; time.sleep(300)")))
    outcome = pipeline.poll(run, maximum_duration=timedelta(seconds=3))
    assert isinstance(outcome.error, RunTimeoutError)
    assert "training.maximum_duration" in str(outcome.error)
    assert wait_for_end(run["run_id"]) == "Canceled"


def test_the_trigger_says_that_a_run_was_cancelled_by_somebody(pipeline: Pipeline, project: MakeProject) -> None:
    run = pipeline.value(pipeline.submission("sample", project("import time; time.sleep(300)")))
    AzureMLHook().cancel(run["run_id"])
    trigger = RunTrigger(run["run_id"], "azure_ml", 0.5, time.time() + 60)
    (event,) = events(trigger)
    assert event["status"]["state"] == "Canceled"
    resume = ("execute_complete", {"event": event, "run": run})
    outcome = pipeline.run(pipeline.waiting(run, deferrable=True), resume=resume)
    assert isinstance(outcome.error, RunCanceledError)


def test_the_trigger_cancels_the_run_when_its_time_is_over(pipeline: Pipeline, project: MakeProject) -> None:
    run = pipeline.value(pipeline.submission("sample", project("import time; time.sleep(300)")))
    (event,) = events(RunTrigger(run["run_id"], "azure_ml", 0.5, time.time() - 1))
    assert event["timed_out"] is True
    assert wait_for_end(run["run_id"]) == "Canceled"


def wait_for_end(run_id: str) -> str:
    hook = AzureMLHook()
    for _ in range(60):
        state = hook.get_run(run_id).state
        if state in {"Completed", "Failed", "Canceled"}:
            return state
        time.sleep(0.5)
    return hook.get_run(run_id).state


def test_code_that_changed_since_it_was_checked_is_not_submitted(pipeline: Pipeline, project: MakeProject) -> None:
    scripts = project(GOOD)
    submission = pipeline.submission("sample", scripts)
    (scripts / "sample" / "train.py").write_text(GOOD + "print('and more')\n")
    error = pipeline.run(submission).error
    assert isinstance(error, ConfigurationError)
    assert "has changed since check_training_code" in str(error)


def test_a_project_with_data_in_it_is_not_submitted(pipeline: Pipeline, project: MakeProject) -> None:
    from edge_training.operators.code import CheckTrainingCodeOperator

    scripts = project(GOOD)
    (scripts / "sample" / "patients.csv").write_text("name,age\n")
    check = CheckTrainingCodeOperator(
        task_id="check", project="sample", scripts_folder=str(scripts), retry_policy=TypedRetryPolicy()
    )
    outcome = pipeline.run(check)
    assert isinstance(outcome.error, ResidencyError)
    assert "patients.csv" in str(outcome.error)
    assert outcome.state == "failed"


def test_a_project_that_does_not_exist_is_named(pipeline: Pipeline) -> None:
    from edge_training.operators.code import CheckTrainingCodeOperator

    check = CheckTrainingCodeOperator(task_id="check", project="nothing", scripts_folder=str(SCRIPTS))
    error = pipeline.run(check).error
    assert isinstance(error, ConfigurationError)
    assert "'nothing' has no train.py" in str(error)
