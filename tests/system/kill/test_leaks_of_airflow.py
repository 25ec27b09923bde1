"""What Airflow by itself would leak, one by one: remote runs that nobody waits for, results that are not new."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.system.kill.conftest import CHANGES, LIMIT_SECONDS
from tests.system.kill.scene import POLL, SCHEDULER, TRIGGERER, end_triggerer, wait_for

if TYPE_CHECKING:
    from tests.system.chaos.stack import ChaosStack
    from tests.system.kill.scene import Scene

pytestmark = pytest.mark.timeout(600)

JANITOR = "edge_training_janitor"


def signal_all(stack: ChaosStack, name: str, number: signal.Signals) -> None:
    """Send a signal to a process and all that it has started, as systemd does."""
    for process in stack.family(name):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def is_canceled(scene: Scene, run_id: str) -> bool:
    return scene.runs() == {run_id: "Canceled"}


def test_what_a_person_ends_while_the_triggerer_is_down_is_swept_up(
    stack: ChaosStack, first: Scene, second: Scene, third: Scene
) -> None:
    scenes = (first, second, third)
    for scene in scenes:
        scene.start(seconds=300)
    run_ids = [scene.started() for scene in scenes]
    end_triggerer(stack)
    try:
        first.set_task_state("failed")
        second.set_state("failed")
        third.clear()
        assert first.ended() == "failed"
        # After the teardown Airflow forgets what the person chose, and finds no task that failed last; the task itself stays failed.
        second.ended()
        assert second.task().state == "failed"
        # Airflow has told nobody; where tasks still follow, the audit finds a run that nobody waits for.
        assert first.runs() == {run_ids[0]: "Canceled"}
        assert second.runs() == {run_ids[1]: "Running"}
        # The task that was cleared cancels what it replaces by itself, and trains anew.
        wait_for("the end of what was replaced", lambda: third.runs().get(run_ids[2]) == "Canceled")
        wait_for("a new run", lambda: len(third.runs()) == 2)

        sweep = stack.api.trigger(JANITOR)
        wait_for("the janitor", lambda: stack.api.run_state(JANITOR, sweep)[0] == "success")
    finally:
        stack.start_again(TRIGGERER)
    wait_for("the end of the run", partial(is_canceled, second, run_ids[1]))
    # Nobody has audited it, for the person ended all of its DAG run; it has sent its log all the same.
    later = stack.api.trigger(JANITOR)
    wait_for("the audit", lambda: stack.api.run_state(JANITOR, later)[0] == "success")
    # By the sweep that cancelled it, when it ended at once.
    audited = [stack.api.xcom(JANITOR, one, "audit_second")["audited"] for one in (sweep, later)]
    assert sorted(audited) == [[], [run_ids[1]]]
    assert stack.api.xcom(JANITOR, sweep, "sweep_first")["cancelled"] == []
    assert stack.api.xcom(JANITOR, sweep, "sweep_second")["cancelled"] == [run_ids[1]]
    assert stack.api.xcom(JANITOR, sweep, "sweep_third")["cancelled"] == []  # its new run is waited for

    wait_for("the new run in the triggerer", third.lines)
    third.set_state("failed")
    wait_for("the end of the new run", lambda: set(third.runs().values()) == {"Canceled"})


def test_the_site_s_limit_ends_a_deferred_run_though_airflow_s_own_limits_do_not(
    stack: ChaosStack, limited: Scene
) -> None:
    limited.start(seconds=300)
    wait_for("the deferral", lambda: limited.task().state == "deferred")
    assert limited.ended() == "failed"
    assert list(limited.runs().values()) == ["Canceled"]
    assert limited.task().try_number == 1
    said = "\n".join(limited.log())
    assert "RunTimeoutError" in said
    assert "training.maximum_duration" in said
    assert CHANGES["limited"][POLL]["execution_timeout"] < LIMIT_SECONDS
    assert limited.task("revoke_data_access").state == "success"


def test_a_scheduler_that_is_stopped_with_all_its_processes_cancels_no_run(stack: ChaosStack, waiting: Scene) -> None:
    waiting.start(seconds=20)
    run_id = waiting.started()
    assert waiting.task().state == "running"
    signal_all(stack, SCHEDULER, signal.SIGTERM)
    # Airflow has called on_kill, as it does when a person ends the task; then the worker is waited for, or not.
    goes_on = f"run {run_id} goes on"
    wait_for("what the task says to that", lambda: any(goes_on in line for line in waiting.log(try_number=1)))
    wait_for("the end of the scheduler", lambda: not stack.runs(SCHEDULER))
    stack.start_again(SCHEDULER)
    assert waiting.ended() == "success"
    assert waiting.runs() == {run_id: "Completed"}
    assert waiting.value(POLL)["run_id"] == run_id


def test_a_task_that_is_cleared_starts_anew_and_does_not_return_the_old_result(first: Scene) -> None:
    first.start(seconds=1)
    assert first.ended() == "success"
    version = first.value("register_model")["version"]
    runs = [first.value(POLL)["run_id"]]
    for cleared in ("submit_experiment", POLL):
        first.clear(cleared)
        # Airflow has taken the DAG run up again when it answers.
        assert first.state() != "success"
        assert first.ended() == "success"
        runs.append(first.value(POLL)["run_id"])
        assert first.value("register_model")["version"] == version + len(runs) - 1
    assert first.runs() == dict.fromkeys(runs, "Completed")
    assert len(set(runs)) == len(runs)


def test_a_triggerer_that_stalls_and_wakes_after_another_took_over_cancels_nothing(
    stack: ChaosStack, first: Scene
) -> None:
    first.start(seconds=40)
    run_id = first.started()
    second = stack.airflow.start_second(TRIGGERER)
    try:
        signal_all(stack, TRIGGERER, signal.SIGSTOP)
        printed = len(first.lines())
        try:
            wait_for("a line that the second triggerer printed", lambda: len(first.lines()) > printed + 1)
        finally:
            signal_all(stack, TRIGGERER, signal.SIGCONT)
        # The first one notices that the trigger is another's now, and Airflow calls on_kill: else nothing would be shown here.
        wait_for("the first one's word", lambda: any("Another triggerer waits" in line for line in first.log()))
        assert first.ended() == "success"
    finally:
        stack.stop_second(second)
    assert first.runs() == {run_id: "Completed"}
