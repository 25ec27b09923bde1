"""Pure decisions about a remote run: its name, whether to submit or to attach, what a state means.

Nothing here talks to a service, so that every case can be tested by a table. The rule (see ``docs/decisions``): a run's id is chosen
before it is submitted, from the DAG run and the attempt, so that whoever comes after a lost answer or a killed worker finds the run
by asking for it. Missing → submit; active → attach; completed → adopt; failed or cancelled → the next attempt's id, on a retry only.
A person's clear is a new start, a retry is not: only a clear changes what the ids are made of.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import RunCanceledError, RunError, RunFailedError, RunTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_training.records import RunStatus

MAXIMUM_ATTEMPTS = 100
"""More submissions than this for one DAG run mean that something other than the run is wrong."""

MAXIMUM_DURATION_CODE = "MaxRunDurationExceeded"
"""The error of a run that Azure ML cancelled by itself, because it took longer than it was submitted for."""

PERMANENT_CODES = frozenset({"HostKeyChanged", "Protocol", "Sandbox", "Script", "Usage", "UserError", "Withheld"})
"""Errors of a run that another run would end with as well; the first words of most come from ``edge_run/errors.py``."""


class Phase(Enum):
    """What a run's state means for the pipeline."""

    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


# Terminal states are data; every other state, also one that Azure ML may add, is a run that goes on, and the site's limit on training
# time bounds how long.
TERMINAL = {"Completed": Phase.COMPLETED, "Failed": Phase.FAILED, "Canceled": Phase.CANCELED}


class Action(Enum):
    """What to do about a run; the value is what stands in a :class:`~edge_training.records.RunHandle`."""

    SUBMIT = "submitted"
    ATTACH = "attached"
    ADOPT = "adopted"
    REPORT = "ended"


# What is done about a run that exists; one that failed or was cancelled is passed over for the next attempt.
ACTIONS = {Phase.ACTIVE: Action.ATTACH, Phase.COMPLETED: Action.ADOPT}


@dataclass(frozen=True)
class Decision:
    """What to do, about which run.

    :param action: submit it, attach to it, adopt its result, or report that it failed.
    :param run_id: the run's id.
    :param attempt: 1 for the first submission of a DAG run.
    """

    action: Action
    run_id: str
    attempt: int


# What a run that is waited for is remembered by, across the tries and clears of the task that waits.
Remembered = dict[str, Any]


@dataclass(frozen=True)
class Wait:
    """Which runs a task waits for.

    :param key: what the ids of these runs begin with.
    :param fresh: whether a person cleared the waiting task alone, so that it has to train anew itself.
    :param superseded: the key of the runs that nobody waits for any more, or ``""``.
    """

    key: str
    fresh: bool
    superseded: str


def phase_of(state: str) -> Phase:
    """Tell what a run's state means.

    :param state: Azure ML's word for it.
    """
    return TERMINAL.get(state, Phase.ACTIVE)


def run_key(dag_id: str, dag_run_id: str, generation: int) -> str:
    """Return what the ids of all attempts of one DAG run begin with.

    :param dag_id: the DAG's id.
    :param dag_run_id: the DAG run's id, of any characters.
    :param generation: changes when a person clears the task (Airflow then raises ``max_tries``), and only then: a clear is a new
        start, a retry is not.
    """
    digest = hashlib.sha256(f"{dag_id}\n{dag_run_id}\n{generation}".encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', dag_id)[:80]}-{digest}"


def run_id_of(key: str, attempt: int) -> str:
    """Return the id of one attempt.

    :param key: what :func:`run_key` returned.
    :param attempt: 1 for the first submission of a DAG run.
    """
    return f"{key}-{attempt}"


def is_run_id(text: str) -> bool:
    """Tell whether a run's id is one that :func:`run_id_of` makes.

    :param text: the id.
    """
    return re.search(r"[A-Za-z0-9_-]-[0-9a-f]{12}-[1-9][0-9]*$", text) is not None


def key_of(run_id: str) -> str:
    """Return the key that a run's id begins with.

    :param run_id: what :func:`run_id_of` returned.
    """
    return run_id.rpartition("-")[0]


def decide(key: str, find: Callable[[str], RunStatus | None], *, retry: bool) -> Decision:
    """Decide what to do next for a DAG run, from what its earlier tries left in Azure ML.

    :param key: what :func:`run_key` returned.
    :param find: returns the run of an id, or ``None`` when there is none.
    :param retry: whether this is a later try: only then a run that failed is followed by another.
    :raises RunFailedError: when :data:`MAXIMUM_ATTEMPTS` runs of this DAG run have failed.
    """
    for attempt in range(1, MAXIMUM_ATTEMPTS + 1):
        run_id = run_id_of(key, attempt)
        found = find(run_id)
        if found is None:
            failed_before = attempt > 1
            if failed_before and not retry:
                return Decision(Action.REPORT, run_id_of(key, attempt - 1), attempt - 1)
            return Decision(Action.SUBMIT, run_id, attempt)
        action = ACTIONS.get(phase_of(found.state))
        if action is not None:
            return Decision(action, run_id, attempt)
    raise RunFailedError(
        f"{MAXIMUM_ATTEMPTS} runs of this DAG run have failed, the last is {run_id}. Correct the cause, then trigger a new DAG run.",
        run_id=run_id,
    )


def remember(given: str, wait: Wait, max_tries: int) -> Remembered:
    """Return what a waiting task has to remember for its later tries.

    :param given: the run's id that it was handed.
    :param wait: what :func:`wait_for` returned.
    :param max_tries: Airflow's number for this task at this moment.
    """
    return {"given": given, "key": wait.key, "max_tries": max_tries}


def wait_for(given: str, remembered: Remembered, max_tries: int, dag_id: str, dag_run_id: str) -> Wait:
    """Decide which runs a waiting task waits for.

    :param given: the run's id that the submitting task handed on.
    :param remembered: what an earlier try of this task remembered, or nothing.
    :param max_tries: Airflow's number for this task at this moment; a clear raises it, a retry does not.
    :param dag_id: the DAG's id.
    :param dag_run_id: the DAG run's id.
    """
    before = str(remembered.get("key", ""))
    if remembered.get("given") != given:
        # The first try, or the submitting task was cleared too and has handed on another run.
        key = key_of(given)
        return Wait(key, fresh=False, superseded=before if before != key else "")
    if remembered.get("max_tries") == max_tries:
        return Wait(before, fresh=False, superseded="")
    return Wait(run_key(f"{dag_id}", f"{dag_run_id}\n{given}", max_tries), fresh=True, superseded=before)


def error_of(status: RunStatus, limit: timedelta | None = None) -> RunError | None:
    """Return the error that a run's end is, or ``None`` when it completed or goes on.

    :param status: the run as Azure ML answers for it.
    :param limit: the site's limit on training time. A run that Azure ML ends at it may have the last word itself, and say only that it was
        ended from outside; then its time tells.
    """
    phase = phase_of(status.state)
    where = f" See {status.portal_url}" if status.portal_url else ""
    if phase is Phase.FAILED:
        code = f" [{status.error_code}]" if status.error_code else ""
        cause = status.error_message.strip() or "Azure ML gives no reason; the run's log may."
        return RunFailedError(
            f"Run {status.run_id} ended as {status.state}{code}: {cause}{where}",
            run_id=status.run_id,
            retryable=status.error_code not in PERMANENT_CODES,
        )
    at_the_limit = limit is not None and seconds_between(status.started, status.ended) >= limit.total_seconds()
    if phase is Phase.CANCELED and (status.error_code == MAXIMUM_DURATION_CODE or at_the_limit):
        return RunTimeoutError(
            f"Run {status.run_id} was ended by Azure ML at the site's training.maximum_duration: {status.error_message.strip()} "
            f"Raise the limit or train on less.{where}",
            run_id=status.run_id,
        )
    if phase is Phase.CANCELED:
        return RunCanceledError(
            f"Run {status.run_id} was cancelled, not by this task. Clear submit_experiment to train again.{where}",
            run_id=status.run_id,
        )
    return None


def timeout_error(status: RunStatus, limit: timedelta) -> RunTimeoutError:
    """Return the error of a run that took longer than the site allows.

    :param status: the run when it was given up.
    :param limit: the site's limit.
    """
    return RunTimeoutError(
        f"Run {status.run_id} was still {status.state} after {limit}, the site's training.maximum_duration, and was cancelled. "
        f"Raise the limit or train on less. See {status.portal_url}",
        run_id=status.run_id,
    )


def seconds_between(started: str, ended: str) -> float:
    """Return the seconds from start to end, 0 when either is not known.

    :param started: ISO 8601, UTC unless it says otherwise, or ``""``.
    :param ended: likewise.
    """
    if not started or not ended:
        return 0.0
    return max(0.0, (_parse(ended) - _parse(started)).total_seconds())


def _parse(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
