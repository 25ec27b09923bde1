"""What people read about a run that goes on: durations in words, what a waiting run waits for, and the table at the end. Pure."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edge_training.lifecycle import seconds_between

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edge_training.records import RunStatus

QUEUED = "Queued"
# States of a run whose script has not begun, so that there is no log yet.
NOT_BEGUN = frozenset({"NotStarted", QUEUED, "Preparing", "Provisioning", "Starting", "Unapproved"})
RUNNER_RECORD = "outputs/edge_run.json"
# How the runner on the VM names a metric that the gate has let through.
METRIC_LINE = re.compile(r"metric\s*\| (\S+ = .+)")

# The runner's own phases as they follow each other; its record has them by name.
RUNNER_PHASES = ("grant", "fetch", "scan", "script", "outputs", "wipe", "report")

# A run's states, each with the moment (seconds since the epoch) at which it was first seen.
History = list[tuple[str, float]]


def duration(seconds: float) -> str:
    """Return a duration in words for people: ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``.

    :param seconds: the duration.
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def waiting_for(compute: str, ahead: int) -> str:
    """Say what a queued run waits for.

    :param compute: the compute target's name.
    :param ahead: runs on it that were created earlier and have not ended.
    """
    runs = "1 run" if ahead == 1 else f"{ahead} runs"
    return f"waiting for a slot on the VM '{compute}' ({runs} ahead)"


def metric_in(line: str) -> str | None:
    """Return the metric that a line of a run's log tells of, such as ``roc_auc = 0.996 (step 4)``, or ``None``.

    :param line: the line.
    """
    found = METRIC_LINE.fullmatch(line)
    return found[1] if found else None


def seen(history: Sequence[tuple[str, float]], state: str, moment: float) -> History:
    """Return a history with a state added, unless it is the last one already.

    :param history: the states before.
    :param state: the state now.
    :param moment: seconds since the epoch.
    """
    known = list(history)
    return known if known and known[-1][0] == state else [*known, (state, moment)]


def history_from(value: Any) -> History:
    """Return a history that went through JSON; what is not one is an empty one, for only people read it.

    :param value: what was stored.
    """
    if not isinstance(value, list) or not all(isinstance(one, (list, tuple)) and len(one) == 2 for one in value):
        return []
    return [(str(state), float(moment)) for state, moment in value if isinstance(moment, (int, float))]


def phase_table(
    history: Sequence[tuple[str, float]], created: str, status: RunStatus, record: Mapping[str, Any]
) -> list[tuple[str, float]]:
    """Return how long each phase of a run took, in order, in seconds.

    What Azure ML recorded comes first; what was seen while waiting splits it up, as exactly as one looked; what the runner on the VM
    measured itself is indented.

    :param history: the states that were seen.
    :param created: when the run was created, ISO 8601, or ``""``.
    :param status: the run at its end.
    :param record: the runner's own record, or nothing.
    """
    rows = [("queued and prepared", seconds_between(created, status.started))] if created and status.started else []
    steps = list(pairwise(history))
    rows += [(f"  {state.lower()}", later - since) for (state, since), (_, later) in steps if state in NOT_BEGUN]
    if status.started and status.ended:
        rows.append(("running", seconds_between(status.started, status.ended)))
    rows += [(f"  {name}", took) for name, took in _measured(record)]
    rows += [(state.lower(), later - since) for (state, since), (_, later) in steps if state == "Finalizing"]
    return rows


def _measured(record: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    seconds = record.get("seconds")
    found = seconds if isinstance(seconds, dict) else {}
    known = [name for name in RUNNER_PHASES if name in found]
    for name in [*known, *(name for name in found if name not in known)]:
        took = found[name]
        if isinstance(took, (int, float)) and not isinstance(took, bool):
            yield str(name), float(took)
