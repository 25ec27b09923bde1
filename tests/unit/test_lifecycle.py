"""What to do about a run, for every state it can be found in."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from edge_training.exceptions import RunCanceledError, RunFailedError, RunTimeoutError
from edge_training.lifecycle import (
    MAXIMUM_ATTEMPTS,
    Action,
    Decision,
    Phase,
    Wait,
    decide,
    error_of,
    is_run_id,
    phase_of,
    remember,
    run_id_of,
    run_key,
    seconds_between,
    timeout_error,
    wait_for,
)
from edge_training.records import RunStatus

KEY = run_key("edge_training_local", "manual__2026-11-21T08:00:00+00:00", 2)
ACTIVE = (
    "NotStarted",
    "Starting",
    "Preparing",
    "Queued",
    "Running",
    "Finalizing",
    "CancelRequested",
    "NotResponding",
    "Novel",
)


def service(*states: str) -> Callable[[str], RunStatus | None]:
    """Return a service that holds one run per attempt, in these states."""
    runs = {run_id_of(KEY, number): RunStatus(run_id_of(KEY, number), state) for number, state in enumerate(states, 1)}
    return runs.get


# What earlier tries left in Azure ML, attempt by attempt → what a first try does, and what a retry does.
TABLE: list[tuple[tuple[str, ...], tuple[Action, int], tuple[Action, int]]] = [
    ((), (Action.SUBMIT, 1), (Action.SUBMIT, 1)),
    *[((state,), (Action.ATTACH, 1), (Action.ATTACH, 1)) for state in ACTIVE],
    (("Completed",), (Action.ADOPT, 1), (Action.ADOPT, 1)),
    (("Failed",), (Action.REPORT, 1), (Action.SUBMIT, 2)),
    (("Canceled",), (Action.REPORT, 1), (Action.SUBMIT, 2)),
    *[
        ((*failed, state), (action, len(failed) + 1), (action, len(failed) + 1))
        for failed in (("Failed",), ("Canceled",), ("Failed", "Canceled"))
        for state, action in (("Queued", Action.ATTACH), ("Running", Action.ATTACH), ("Completed", Action.ADOPT))
    ],
    (("Failed", "Canceled"), (Action.REPORT, 2), (Action.SUBMIT, 3)),
    # A run that completed is never followed by another, whatever came after it.
    (("Completed", "Failed"), (Action.ADOPT, 1), (Action.ADOPT, 1)),
]


@pytest.mark.parametrize("retry", [False, True], ids=["first try", "retry"])
@pytest.mark.parametrize(("states", "first", "later"), TABLE, ids=lambda value: "+".join(map(str, value)) or "nothing")
def test_what_is_found_and_which_try_it_is_decide(
    states: tuple[str, ...], first: tuple[Action, int], later: tuple[Action, int], retry: bool
) -> None:
    action, attempt = later if retry else first
    assert decide(KEY, service(*states), retry=retry) == Decision(action, run_id_of(KEY, attempt), attempt)


def test_attempts_have_an_end() -> None:
    with pytest.raises(RunFailedError, match="trigger a new DAG run"):
        decide(KEY, service(*["Failed"] * MAXIMUM_ATTEMPTS), retry=True)


def test_an_id_is_the_same_for_every_try_and_another_for_every_dag_run_and_clear() -> None:
    assert run_key("d", "r", 2) == run_key("d", "r", 2)
    assert len({run_key("d", "r", 2), run_key("d", "s", 2), run_key("e", "r", 2), run_key("d", "r", 5)}) == 4


def test_an_id_has_only_characters_that_azure_ml_accepts() -> None:
    key = run_key("dag.with späces/" + "x" * 300, "manual__2026-11-21T08:00:00+00:00", 0)
    assert key.replace("-", "").replace("_", "").isalnum()
    assert key.isascii()
    assert len(key) < 100


@pytest.mark.parametrize(
    ("state", "phase"), [("Completed", Phase.COMPLETED), ("Failed", Phase.FAILED), ("Canceled", Phase.CANCELED)]
)
def test_terminal_states_are_known(state: str, phase: Phase) -> None:
    assert phase_of(state) is phase


def test_a_failed_run_is_an_error_with_its_own_cause_id_and_link() -> None:
    error = error_of(RunStatus("run-1", "Failed", "https://portal/run-1", "UserError", "ValueError: no column 'age'"))
    assert isinstance(error, RunFailedError)
    assert error.run_id == "run-1"
    assert str(error) == "Run run-1 ended as Failed [UserError]: ValueError: no column 'age' See https://portal/run-1"


def test_a_failed_run_without_a_reason_sends_to_the_log() -> None:
    assert "log may" in str(error_of(RunStatus("run-1", "Failed")))


def test_a_cancelled_run_says_how_to_train_again() -> None:
    error = error_of(RunStatus("run-1", "Canceled"))
    assert isinstance(error, RunCanceledError)
    assert "Clear submit_experiment" in str(error)


def test_a_run_that_azure_ml_ended_at_its_limit_is_a_timeout() -> None:
    error = error_of(RunStatus("run-1", "Canceled", "", "MaxRunDurationExceeded", "longer than its 600 s."))
    assert isinstance(error, RunTimeoutError)
    assert "training.maximum_duration: longer than its 600 s. Raise the limit" in str(error)


@pytest.mark.parametrize(
    ("ended", "kind"), [("2026-11-21T12:10:00Z", RunTimeoutError), ("2026-11-21T12:09:59Z", RunCanceledError)]
)
def test_a_run_that_had_the_last_word_when_azure_ml_ended_it_at_the_limit_timed_out_all_the_same(
    ended: str, kind: type[Exception]
) -> None:
    said = RunStatus("run-1", "Canceled", "", "Canceled", "Ended by SIGTERM.", "2026-11-21T12:00:00Z", ended)
    assert type(error_of(said, timedelta(minutes=10))) is kind
    assert type(error_of(said)) is RunCanceledError


@pytest.mark.parametrize("state", [*ACTIVE, "Completed"])
def test_a_run_that_goes_on_or_completed_is_no_error(state: str) -> None:
    assert error_of(RunStatus("run-1", state)) is None


def test_a_run_that_took_too_long_names_the_setting() -> None:
    error = timeout_error(RunStatus("run-1", "Running"), timedelta(minutes=10))
    assert "still Running after 0:10:00" in str(error)
    assert "training.maximum_duration" in str(error)


@pytest.mark.parametrize(
    ("started", "ended", "seconds"),
    [
        ("2026-11-21T08:00:00Z", "2026-11-21T08:00:01.5+00:00", 1.5),
        ("2026-11-21T08:00:00", "2026-11-21T08:00:02Z", 2.0),
        ("", "2026-11-21T08:00:02Z", 0.0),
        ("2026-11-21T08:00:02Z", "2026-11-21T08:00:00Z", 0.0),
    ],
)
def test_the_time_of_a_run_is_read_from_azure_mls_timestamps(started: str, ended: str, seconds: float) -> None:
    assert seconds_between(started, ended) == seconds


def test_a_first_try_waits_for_the_run_that_it_was_handed() -> None:
    assert wait_for(f"{KEY}-1", {}, 2, "d", "r") == Wait(KEY, fresh=False, superseded="")


def test_a_retry_waits_for_the_same_runs() -> None:
    first = wait_for(f"{KEY}-1", {}, 2, "d", "r")
    assert wait_for(f"{KEY}-1", remember(f"{KEY}-1", first, 2), 2, "d", "r") == first


def test_a_task_that_was_cleared_alone_trains_anew_and_gives_up_the_old_run() -> None:
    first = wait_for(f"{KEY}-1", {}, 2, "d", "r")
    cleared = wait_for(f"{KEY}-1", remember(f"{KEY}-1", first, 2), 5, "d", "r")
    assert cleared.fresh
    assert cleared.superseded == KEY
    assert cleared.key not in {KEY, run_key("d", "r", 5)}
    retried = wait_for(f"{KEY}-1", remember(f"{KEY}-1", cleared, 5), 5, "d", "r")
    assert (retried.key, retried.superseded) == (cleared.key, "")
    again = wait_for(f"{KEY}-1", remember(f"{KEY}-1", cleared, 5), 8, "d", "r")
    assert again.key != cleared.key
    assert again.superseded == cleared.key


def test_a_task_that_was_cleared_together_with_the_submission_waits_for_the_new_run() -> None:
    new = run_key("d", "r", 9)
    first = wait_for(f"{KEY}-1", {}, 2, "d", "r")
    cleared = wait_for(f"{new}-1", remember(f"{KEY}-1", first, 2), 5, "d", "r")
    assert cleared == Wait(new, fresh=False, superseded=KEY)


def test_the_submission_s_next_attempt_supersedes_nothing() -> None:
    first = wait_for(f"{KEY}-1", {}, 2, "d", "r")
    assert wait_for(f"{KEY}-2", remember(f"{KEY}-1", first, 2), 2, "d", "r") == Wait(KEY, fresh=False, superseded="")


@pytest.mark.parametrize(("code", "retryable"), [("Script", False), ("Withheld", False), ("RunLost", True), ("", True)])
def test_a_failed_run_is_followed_by_another_only_when_that_may_do_better(code: str, retryable: bool) -> None:
    error = error_of(RunStatus("run-1", "Failed", "", code, "why"))
    assert error is not None
    assert error.retryable is retryable


def test_our_runs_are_known_by_their_ids() -> None:
    assert is_run_id(run_id_of(run_key("retrain", "manual__2026-01-01T00:00:00+00:00", 0), 1))
    assert is_run_id(run_id_of(run_key("älter", "x", 3), 12))
    assert [
        one for one in ("retrain_1767225600_0a1b2c3d", "retrain-0a1b2c3d4e5f", "0a1b2c3d4e5f-1", "") if is_run_id(one)
    ] == []
