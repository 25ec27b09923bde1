"""Who ends a task ends its run, and nothing else does; in a real Airflow, whose triggerer waits for the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system.kill.scene import TRIGGERER, end_triggerer, wait_for

if TYPE_CHECKING:
    from tests.system.chaos.stack import ChaosStack
    from tests.system.kill.scene import Scene

pytestmark = pytest.mark.timeout(600)


def test_marking_a_deferred_task_failed_cancels_its_run(first: Scene) -> None:
    first.start(seconds=200)
    run_id = first.started()
    assert first.task().state == "deferred"
    first.set_task_state("failed")
    wait_for("the end of the run", lambda: first.runs() == {run_id: "Canceled"})
    assert first.ended() == "failed"
    assert first.task("revoke_data_access").state == "success"


def test_a_triggerer_that_is_killed_loses_neither_the_run_nor_a_line_of_its_log(
    stack: ChaosStack, first: Scene
) -> None:
    seconds = 20
    first.start(seconds)
    run_id = first.started()
    end_triggerer(stack)
    stack.start_again(TRIGGERER)
    assert first.ended() == "success"
    assert first.runs() == {run_id: "Completed"}
    assert first.task().try_number == 1
    assert first.lines() == [f"{second} s" for second in range(seconds)]
