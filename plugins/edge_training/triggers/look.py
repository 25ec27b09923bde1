"""Looks at many runs with few requests: what a hub does in a thread, and a task that waits for itself."""

from __future__ import annotations

import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edge_training.exceptions import ServiceError
from edge_training.lifecycle import Phase, phase_of
from edge_training.progress import QUEUED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edge_training.hooks.azure_ml_records import ListedRun
    from edge_training.records import RunStatus

SINGLE_THREADS = 4
SINGLE_SECONDS = 600.0
"""How long runs are asked for one by one after the service did not understand the shared question."""
QUEUE_SECONDS = 30.0
"""How old the knowledge of all active runs may be from which the places in the queue are counted."""
UNDERSTOOD_BUT_REFUSED = frozenset({401, 403})


@dataclass(frozen=True)
class Sighting:
    """A run as it was seen.

    :param run: the run.
    :param ahead: how many runs are before it on its compute target while it is queued, or ``None`` when that is not known.
    """

    run: ListedRun
    ahead: int | None = None


Answer = Sighting | Exception


class RunSource(Protocol):
    """Whom everybody here asks: the Azure ML hook, or anything that answers like it."""

    def look_up(self, run_id: str) -> ListedRun:
        """Return one run."""

    def active_runs(self, experiment: str) -> dict[str, ListedRun]:
        """Return the runs of an experiment that have not ended."""

    def runs_by_id(self, experiment: str, run_ids: Iterable[str]) -> dict[str, ListedRun]:
        """Return those of these runs that exist."""

    def runs_tagged(self, tags: Mapping[str, str], experiment: str | None = None) -> tuple[ListedRun, ...]:
        """Return the active runs of all experiments that carry these tags."""

    def read_log(self, run_id: str, offset: int) -> bytes:
        """Return what a run's log has grown by."""

    def cancel(self, run_id: str) -> None:
        """Ask for a run to be cancelled."""


class SharedLook:
    """Looks at many runs with few requests; synchronous.

    :param source: whom to ask.
    :param experiment: the experiment of all the runs; ``""`` when it is not known, and each is asked for itself.
    """

    def __init__(self, source: RunSource, experiment: str) -> None:
        self.source = source
        self.experiment = experiment
        self._single_until = 0.0 if experiment else float("inf")
        self._everywhere: tuple[float, Sequence[ListedRun]] = (float("-inf"), ())

    def look(self, run_ids: Sequence[str]) -> dict[str, Answer]:
        """Return each run as it is now, or the error that stands for it alone.

        :param run_ids: the runs.
        :raises ServiceError: when nobody can be asked; that concerns all of them.
        """
        if time.monotonic() < self._single_until:
            return self._with_places(self._one_by_one(run_ids))
        try:
            active = self.source.active_runs(self.experiment)
            gone = [run_id for run_id in run_ids if run_id not in active]
            ended = self.source.runs_by_id(self.experiment, gone) if gone else {}
        except ServiceError as error:
            if error.retryable or error.status in UNDERSTOOD_BUT_REFUSED:
                raise
            self._single_until = time.monotonic() + SINGLE_SECONDS
            return self._with_places(self._one_by_one(run_ids))
        found = {**active, **{run_id: run for run_id, run in ended.items() if not _owes_a_reason(run.status)}}
        # What no list has may be in another experiment, or not exist: its own answer says so, to its own trigger.
        answers: dict[str, Answer] = {run_id: Sighting(found[run_id]) for run_id in run_ids if run_id in found}
        answers |= self._one_by_one([run_id for run_id in run_ids if run_id not in found])
        return self._with_places(answers)

    def _one_by_one(self, run_ids: Sequence[str]) -> dict[str, Answer]:
        if not run_ids:
            return {}
        with ThreadPoolExecutor(min(SINGLE_THREADS, len(run_ids))) as pool:
            return dict(zip(run_ids, pool.map(self._single, run_ids), strict=True))

    def _single(self, run_id: str) -> Answer:
        try:
            return Sighting(self.source.look_up(run_id))
        except ServiceError as error:
            return error

    def _with_places(self, answers: dict[str, Answer]) -> dict[str, Answer]:
        """Count, for each queued run, the active runs on its compute target that were created earlier."""
        queued = {
            run_id: answer.run
            for run_id, answer in answers.items()
            if isinstance(answer, Sighting) and answer.run.status.state == QUEUED
        }
        if not queued:
            return answers
        by_compute: dict[str, list[str]] = defaultdict(list)
        for one in self._all_active():
            by_compute[one.compute].append(one.created)
        for run_id, run in queued.items():
            if run.compute in by_compute and run.created:
                ahead = sum(created < run.created for created in by_compute[run.compute])
                answers[run_id] = Sighting(run, ahead)
        return answers

    def _all_active(self) -> Sequence[ListedRun]:
        """Return the active runs of all experiments, for they share the VM; it is not asked for at every look."""
        if time.monotonic() - self._everywhere[0] >= QUEUE_SECONDS:
            with suppress(ServiceError):  # a place in the queue is a courtesy: the look itself has succeeded
                self._everywhere = (time.monotonic(), self.source.runs_tagged({}))
        return self._everywhere[1]


def _owes_a_reason(status: RunStatus) -> bool:
    """Tell whether a run ended badly, and the list did not say why."""
    return phase_of(status.state) in {Phase.FAILED, Phase.CANCELED} and not (status.error_code or status.error_message)
