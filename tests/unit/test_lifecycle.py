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
    decide,
    error_of,
    phase_of,
    run_id_of,
    run_key,
    seconds_between,
    timeout_error,
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


def expected(action: Action, attempt: int) -> Decision:
    return Decision(action, run_id_of(KEY, attempt), attempt)


def test_a_run_that_is_missing_is_submitted() -> None:
    assert decide(KEY, service()) == expected(Action.SUBMIT, 1)


@pytest.mark.parametrize("state", ACTIVE)
def test_a_run_that_goes_on_is_attached_to(state: str) -> None:
    assert decide(KEY, service(state)) == expected(Action.ATTACH, 1)


def test_a_run_that_completed_is_adopted() -> None:
    assert decide(KEY, service("Completed")) == expected(Action.ADOPT, 1)


@pytest.mark.parametrize("state", ["Failed", "Canceled"])
def test_after_a_run_that_failed_the_next_attempt_is_submitted(state: str) -> None:
    assert decide(KEY, service(state)) == expected(Action.SUBMIT, 2)


@pytest.mark.parametrize(("state", "action"), [("Running", Action.ATTACH), ("Completed", Action.ADOPT)])
def test_the_newest_attempt_counts(state: str, action: Action) -> None:
    assert decide(KEY, service("Failed", "Canceled", state)) == expected(action, 3)


def test_attempts_have_an_end() -> None:
    with pytest.raises(RunFailedError, match="trigger a new DAG run"):
        decide(KEY, service(*["Failed"] * MAXIMUM_ATTEMPTS))


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
