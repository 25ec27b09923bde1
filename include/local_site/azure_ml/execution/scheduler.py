"""The queue: starts runs in the order they came, as many at a time as a machine may train."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from local_site.azure_ml.errors import ConflictError
from local_site.azure_ml.execution.runner import Execution, Means

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_site.azure_ml.arm.state import Computes
    from local_site.azure_ml.artifacts.state import Artifacts
    from local_site.azure_ml.execution.jobs import Job, Jobs
    from local_site.azure_ml.history.state import History
    from local_site.azure_ml.identity.tokens import Tokens
    from local_site.azure_ml.settings import Settings
    from local_site.azure_ml.snapshots.state import Snapshots

RETRY_SECONDS = 2.0
END_SECONDS = 30

log = logging.getLogger("local_site.azure_ml")


class Scheduler:
    """Gives each run a thread when its machine has room."""

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        jobs: Jobs,
        history: History,
        computes: Computes,
        snapshots: Snapshots,
        artifacts: Artifacts,
    ) -> None:
        self._means = Means(settings, tokens, jobs, history, computes, snapshots, artifacts)
        self._active: dict[str, Execution] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._held = False

    def start(self) -> None:
        """Take up what an earlier process left, then begin to work the queue off."""
        for job in [*self._means.jobs.unfinished(), *self._means.jobs.abandoned()]:
            if job.status != "Queued":
                log.info("run %s was %s when the server stopped; looking for it", job.run_id, job.status)
                self._begin(job, resumed=True)
        threading.Thread(target=self._work, name="scheduler", daemon=True).start()

    def stop(self) -> None:
        """Start no more runs. Those that are going on go on, on their machine."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Look at the queue again."""
        with self._changed:
            self._changed.notify_all()

    def cancel(self, run_id: str) -> None:
        """End a run that is going on."""
        with self._changed:
            execution = self._active.get(run_id)
        if execution is not None:
            execution.cancel()

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """End every run that is going on, and start none until the block is over.

        :raises ConflictError: when one does not end in time.
        """
        with self._changed:
            self._held = True
            for execution in self._active.values():
                execution.cancel()
            try:
                if not self._changed.wait_for(lambda: not self._active, END_SECONDS):
                    raise ConflictError(f"These runs did not end within {END_SECONDS} s: {', '.join(self._active)}.")
                yield
            finally:
                self._held = False
                self._changed.notify_all()

    def active(self) -> list[str]:
        """Return the ids of the runs that are going on."""
        with self._changed:
            return sorted(self._active)

    def _work(self) -> None:
        with self._changed:
            while not self._ended:
                try:
                    self._start_what_fits()
                except Exception:  # the queue must outlive a fault such as a full disk
                    log.exception("the queue cannot be worked off; it is tried again")
                    self._changed.wait(RETRY_SECONDS)
                else:
                    self._changed.wait()

    def _start_what_fits(self) -> None:
        for job in self._means.jobs.waiting() if not self._held else ():
            if job.run_id not in self._active and self._has_room(job) and self._means.jobs.begin(job.run_id):
                self._begin(job, resumed=False)

    def _has_room(self, job: Job) -> bool:
        busy = sum(execution.job.compute == job.compute for execution in self._active.values())
        return busy < self._means.settings.runs_per_vm

    def _begin(self, job: Job, *, resumed: bool) -> None:
        execution = Execution(job, self._means, resumed=resumed)
        self._active[job.run_id] = execution
        threading.Thread(target=self._carry, args=(execution,), name=job.run_id, daemon=True).start()

    def _carry(self, execution: Execution) -> None:
        try:
            execution.carry_out()
        finally:
            with self._changed:
                del self._active[execution.job.run_id]
                self._changed.notify_all()
