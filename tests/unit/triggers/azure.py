"""An Azure ML whose runs a test sets: what a trigger asks for, and how often."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ServiceError
from edge_training.hooks.azure_ml_records import ListedRun
from edge_training.lifecycle import TERMINAL
from edge_training.records import RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OUTAGE = ServiceError("503", service="Azure ML", status=503)
REFUSED = ServiceError("403", service="Azure ML", status=403)


class Azure:
    """Answers with what the test has set.

    :ivar states: by run id; a list is gone through answer by answer, an error in it is raised, its last one stays.
    :ivar created: when each run was created; in alphabetical order by default.
    :ivar list_error: what questions for many runs are answered with.
    :ivar asked: how often each method was called.
    """

    def __init__(self, **states: str | list[Any]) -> None:
        self.states = dict(states)
        self.created: dict[str, str] = {}
        self.log = b""
        self.log_error: ServiceError | None = None
        self.list_error: ServiceError | None = None
        self.canceled: list[str] = []
        self.asked: Counter[str] = Counter()
        self.last_seen: dict[str, ListedRun] = {}

    def look_up(self, run_id: str) -> ListedRun:
        self.asked["look_up"] += 1
        return self._run(run_id)

    def active_runs(self, experiment: str) -> dict[str, ListedRun]:
        self.asked["active_runs"] += 1
        if self.list_error is not None:
            raise self.list_error
        found = {run_id: self._run(run_id) for run_id in self.states}
        self.last_seen = found
        return {run_id: run for run_id, run in found.items() if run.status.state not in TERMINAL}

    def runs_by_id(self, experiment: str, run_ids: Iterable[str]) -> dict[str, ListedRun]:
        self.asked["runs_by_id"] += 1
        return {run_id: self.last_seen[run_id] for run_id in run_ids if run_id in self.last_seen}

    def runs_tagged(self, tags: Mapping[str, str], experiment: str | None = None) -> tuple[ListedRun, ...]:
        self.asked["runs_tagged"] += 1
        return tuple(
            run
            for run in map(self._run, self.states)
            if run.status.state not in TERMINAL and isinstance(run, ListedRun)
        )

    def read_log(self, run_id: str, offset: int) -> bytes:
        self.asked["read_log"] += 1
        if self.log_error is not None:
            raise self.log_error
        return self.log[offset:]

    def cancel(self, run_id: str) -> None:
        self.canceled.append(run_id)

    def _run(self, run_id: str) -> ListedRun:
        planned = self.states.get(run_id)
        if planned is None:
            raise ServiceError(f"no run {run_id}", service="Azure ML", status=404)
        answers: list[Any] = [planned] if isinstance(planned, str) else planned
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, ServiceError):
            raise answer
        status = RunStatus(run_id, answer, f"https://portal/{run_id}")
        return ListedRun(status, "experiment", {}, "edge-vm", self.created.get(run_id, run_id))


class Lines(list[str]):
    """A log that a test reads."""

    def info(self, message: str, /, *arguments: object) -> None:
        self.append(message % arguments if arguments else message)

    def starting(self, text: str) -> list[str]:
        return [line.removeprefix(text) for line in self if line.startswith(text)]
