"""The schedule: the same for the same seed, and complete."""

from __future__ import annotations

import pytest

from tests.system.chaos.calls import CALLS, unknown
from tests.system.chaos.plan import ANY, INJECTIONS, KILL, KILLS, TASKS, schedule

ROUNDS = 200


def test_a_seed_makes_one_schedule_and_another_seed_another() -> None:
    assert schedule(ROUNDS, 7) == schedule(ROUNDS, 7)
    assert schedule(ROUNDS, 7) != schedule(ROUNDS, 8)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_hundred_rounds_kill_every_process_in_each_of_its_steps(seed: int) -> None:
    planned = {
        (fault.target, fault.step) for faults in schedule(ROUNDS, seed) for fault in faults if fault.kind == KILL
    }
    assert planned == {(target, step) for target, steps in KILLS.items() for step in steps}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_hundred_rounds_disturb_every_call_and_in_every_way(seed: int) -> None:
    planned = {
        (fault.kind, fault.target) for faults in schedule(ROUNDS, seed) for fault in faults if fault.kind != KILL
    }
    assert planned == {(kind, call.title) for call in CALLS for kind in INJECTIONS}


def test_twelve_rounds_have_kills_and_each_kind_of_failing_call() -> None:
    faults = [fault for faults in schedule(12, 1) for fault in faults]
    assert {fault.kind for fault in faults} == {KILL, *INJECTIONS}
    assert len({fault.target for fault in faults if fault.kind == KILL}) >= 6


def test_only_the_faults_that_are_asked_for_take_part() -> None:
    names = {fault.name for faults in schedule(50, 1, ["kill -9 registry", "429: log in"]) for fault in faults}
    assert names == {"kill -9 registry", "429: log in"}


def test_a_name_that_no_fault_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="no-such-thing"):
        schedule(1, 1, ["no-such-thing"])


def test_every_step_is_a_task_of_the_pipeline() -> None:
    steps = {step for call in CALLS for step in call.steps} | {step for steps in KILLS.values() for step in steps}
    assert steps <= {*TASKS, ANY}


def test_a_request_that_no_call_stands_for_is_found() -> None:
    run = "/history/v1.0/subscriptions/s/resourceGroups/g/providers/p/workspaces/w/runs/r-1"
    assert unknown("azure-ml", [("GET", run), ("DELETE", run), ("DELETE", run)]) == [f"azure-ml: DELETE {run}"]
    assert unknown("registry", [("GET", run)]) == [f"registry: GET {run}"]
