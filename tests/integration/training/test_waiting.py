"""Waiting for runs of the real stand-in: shared requests, the log while it grows, places in the queue, what people read at the end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.records import RunHandle
from edge_training.triggers.look import SharedLook, Sighting
from edge_training.triggers.run import RunTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.airflow_harness import FakeComms
    from tests.integration.training.conftest import Pipeline
    from tests.integration.training.control import Control

    MakeProject = Callable[[str], Path]

EXPERIMENT = "waiting"
INTERVAL = 0.5
NAMES = itertools.count()
PRINTS = """
import time
import edge_context
for number in range(12):
    edge_context.log_text(f"line {number}")
    time.sleep(0.3)
edge_context.log_metric("accuracy", 0.75)
edge_context.save_model(b"\\x08\\x08:\\x00B\\x02\\x10\\x11", "model.onnx")  # the least that is an ONNX model
"""
SLEEPS = "import time; time.sleep(300)"


@pytest.fixture
def hook(control: Control) -> AzureMLHook:
    return AzureMLHook()


def wait_until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def start(hook: AzureMLHook, count: int) -> list[str]:
    """Start runs as a notebook does, whose states are set by the test."""
    from azureml.core import Experiment

    experiment = Experiment(hook.workspace, EXPERIMENT)
    run_ids = [f"waiting-{next(NAMES)}" for _ in range(count)]
    for run_id in run_ids:
        experiment.start_logging(run_id=run_id, snapshot_directory=None, outputs=None)
    return run_ids


class LoggingTrigger(RunTrigger):
    """Keeps what it logs, each line with the moment."""

    def __init__(self, run_id: str, experiment: str = EXPERIMENT, interval: float = INTERVAL) -> None:
        super().__init__(run_id, "azure_ml", interval, time.time() + 120, experiment)
        self.lines: list[tuple[float, str]] = []

    @property
    def log(self) -> Any:
        return self

    def info(self, message: str, *arguments: object) -> None:
        self.lines.append((time.monotonic(), message % arguments if arguments else message))

    warning = info

    def remote(self, start: str = "") -> list[str]:
        texts = [text.removeprefix("[remote] ") for _, text in self.lines if text.startswith("[remote] ")]
        return [text.removeprefix(start) for text in texts if text.startswith(start)]

    async def event(self) -> dict[str, Any]:
        events = [event.payload async for event in self.run()]
        assert len(events) == 1
        payload: dict[str, Any] = events[0]
        return payload


def test_triggers_for_many_runs_share_their_requests_and_each_sees_the_end_of_its_own(
    hook: AzureMLHook, control: Control
) -> None:
    ends = dict(zip(start(hook, 8), itertools.cycle(["Completed", "Canceled"]), strict=False))

    async def work() -> list[dict[str, Any]]:
        waiting = [asyncio.create_task(LoggingTrigger(run_id).event()) for run_id in ends]
        await asyncio.sleep(4 * INTERVAL)
        control.clear()
        await asyncio.sleep(6 * INTERVAL)
        asked = Counter(one["path"].rpartition("/")[2] for one in control.requests())
        # One question for all of them at each look, and not one for a single run but for its log's address.
        assert asked["runs:query"] <= 8
        assert asked["details"] <= 8 * asked["runs:query"]
        for run_id, state in ends.items():
            await asyncio.to_thread(control.call, "POST", f"runs/{run_id}/status", {"status": state})
        return await asyncio.gather(*waiting)

    found = asyncio.run(asyncio.wait_for(work(), 60))
    assert {event["run_id"]: event["status"]["state"] for event in found} == ends


def test_an_outage_of_azure_ml_is_said_once_to_everybody_who_waits_and_waited_out(
    hook: AzureMLHook, control: Control
) -> None:
    run_ids = start(hook, 3)

    async def work() -> list[LoggingTrigger]:
        triggers = [LoggingTrigger(run_id) for run_id in run_ids]
        waiting = [asyncio.create_task(trigger.event()) for trigger in triggers]
        await asyncio.sleep(3 * INTERVAL)
        control.fault("status", "runs:query$", status=503, calls=3)
        await asyncio.to_thread(wait_until, lambda: not control.unused_faults())
        for run_id in run_ids:
            await asyncio.to_thread(control.call, "POST", f"runs/{run_id}/status", {"status": "Completed"})
        await asyncio.gather(*waiting)
        return triggers

    for trigger in asyncio.run(asyncio.wait_for(work(), 60)):
        said = [text for _, text in trigger.lines]
        assert len([text for text in said if "cannot be asked now" in text]) == 1
        assert len([text for text in said if "answers again" in text]) == 1


def test_a_wrong_path_through_the_shared_question_falls_back_to_single_ones(
    hook: AzureMLHook, control: Control
) -> None:
    (run_id,) = start(hook, 1)
    control.fault("status", "runs:query$", status=400, calls=1000)
    look = SharedLook(hook, EXPERIMENT)
    (answer,) = look.look([run_id]).values()
    assert isinstance(answer, Sighting)
    assert answer.run.status.run_id == run_id
    look.look([run_id])
    assert len(control.requests("runs:query$")) == 1


def test_lines_appear_while_the_run_goes_on_each_once_and_at_the_end_the_log_is_whole(
    pipeline: Pipeline, project: MakeProject
) -> None:
    run = RunHandle.from_json(pipeline.value(pipeline.submission("sample", project(PRINTS), experiment=EXPERIMENT)))
    trigger = LoggingTrigger(run.run_id)
    event = asyncio.run(asyncio.wait_for(trigger.event(), 90))
    assert event["status"]["state"] == "Completed"
    assert trigger.remote("script | line ") == [str(number) for number in range(12)]
    whole = AzureMLHook().read_log(run.run_id, 0).decode().splitlines()
    assert trigger.remote() == whole
    # They came in several looks: a script prints a line every 0.3 s, and one looks every 0.5 s.
    moments = [moment for moment, text in trigger.lines if "script | line " in text]
    looks = 1 + sum(later - before > INTERVAL / 4 for before, later in itertools.pairwise(moments))
    assert looks >= 4


def test_a_log_that_is_not_reachable_delays_its_lines_and_fails_nothing(
    pipeline: Pipeline, project: MakeProject, control: Control
) -> None:
    run = RunHandle.from_json(pipeline.value(pipeline.submission("sample", project(PRINTS), experiment=EXPERIMENT)))
    control.fault("status", "^/blobs/", method="GET", status=503, calls=4)
    trigger = LoggingTrigger(run.run_id)
    event = asyncio.run(asyncio.wait_for(trigger.event(), 90))
    assert event["status"]["state"] == "Completed"
    assert len([text for _, text in trigger.lines if "log cannot be read now" in text]) == 1
    assert trigger.remote("script | line ") == [str(number) for number in range(12)]


def test_a_queued_run_knows_how_many_are_ahead_of_it_on_the_vm_also_those_of_other_experiments(
    pipeline: Pipeline, project: MakeProject, hook: AzureMLHook, comms: FakeComms
) -> None:
    pipeline.value(pipeline.submission("sample", project(SLEEPS), experiment="elsewhere"))
    fields = dict(pipeline.fields)
    started: list[str] = []
    try:
        for number in range(3):
            pipeline.run_id = f"manual__queue_{number}_{time.time_ns()}"
            comms.state.clear()  # what another DAG run remembers is not this one's
            submission = pipeline.submission("sample", Path(fields["scripts_folder"]), experiment=EXPERIMENT)
            started.append(pipeline.value(submission)["run_id"])
        (last,) = SharedLook(hook, EXPERIMENT).look(started[-1:]).values()
        assert isinstance(last, Sighting)
        assert last.run.status.state == "Queued"
        assert last.ahead is not None
        assert last.ahead >= 3
        trigger = LoggingTrigger(started[-1])

        async def work() -> None:
            waiting = asyncio.create_task(trigger.event())
            await asyncio.to_thread(wait_until, lambda: any("ahead" in text for _, text in trigger.lines))
            waiting.cancel()

        asyncio.run(asyncio.wait_for(work(), 30))
        assert trigger.lines[-1][1] == (
            f"Run {started[-1]} is waiting for a slot on the VM 'edge-vm' ({last.ahead} runs ahead)."
        )
    finally:
        for run in hook.runs_tagged({"site": "test"}):
            hook.cancel(run.status.run_id)


def test_at_the_end_a_table_says_how_long_each_phase_took(
    pipeline: Pipeline, project: MakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pipeline.value(pipeline.submission("sample", project(PRINTS), experiment=EXPERIMENT))
    assert pipeline.poll(run).error is None
    said = capsys.readouterr().out.rpartition("How long it took:")[2]
    order = [said.find(f"  {phase} ") for phase in ("queued and prepared", "running", "  fetch", "  script", "  wipe")]
    assert -1 not in order
    assert order == sorted(order)


def test_the_run_s_page_is_linked_while_the_task_is_deferred(
    pipeline: Pipeline, project: MakeProject, comms: FakeComms
) -> None:
    run = pipeline.value(pipeline.submission("sample", project(PRINTS), experiment=EXPERIMENT))
    assert pipeline.run(pipeline.waiting(run, deferrable=True)).state == "deferred"
    assert comms.xcom["poll_run", "_link_RunLink"] == run["portal_url"]
    AzureMLHook().cancel(run["run_id"])
