"""Waits for a training run without a worker, and prints its log as it grows."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk.bases.xcom import BaseXCom
from airflow.triggers.base import BaseTrigger, TriggerEvent

from edge_training.airflow_state import is_still_wanted
from edge_training.exceptions import ServiceError
from edge_training.lifecycle import Phase, phase_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

    from edge_training.records import RunStatus

LOG_PREFIX = "[remote] "
PRINTED_KEY = "remote_log_printed"


class RunSource(Protocol):
    """What a watcher asks: the Azure ML hook, or anything that answers like it."""

    def get_run(self, run_id: str) -> RunStatus:
        """Return the run as it is now."""

    def read_log(self, run_id: str, offset: int) -> bytes:
        """Return what the run's log has grown by."""

    def cancel(self, run_id: str) -> None:
        """Ask for the run to be cancelled."""


class Log(Protocol):
    """The one method of a logger that a watcher uses."""

    def info(self, message: str, /, *arguments: Any) -> Any:
        """Write a line."""


class RunWatcher:
    """Looks at a run again and again: says what changed, and prints each line of its log once.

    :param source: whom to ask.
    :param run_id: the run's id.
    :param log: where to print; usually the task's log.
    :param offset: bytes of the remote log that were printed before.

    :ivar printed: bytes of the remote log whose lines have been printed.
    """

    def __init__(self, source: RunSource, run_id: str, log: Log, offset: int = 0) -> None:
        self.source = source
        self.run_id = run_id
        self.log = log
        self.printed = offset
        self._pending = b""
        self._state = ""
        self._since = time.monotonic()
        self._log_unreachable = False

    def look(self) -> RunStatus:
        """Ask once, print what is new, and return the run's status.

        :raises ServiceError: when the state cannot be read; a log that cannot be read is only said.
        """
        status = self.source.get_run(self.run_id)
        if status.state != self._state:
            now = time.monotonic()
            if self._state:
                self.log.info(
                    "Run %s: %s after %.0f s in %s.", self.run_id, status.state, now - self._since, self._state
                )
            else:
                self.log.info("Run %s: %s. See %s", self.run_id, status.state, status.portal_url)
            self._state, self._since = status.state, now
        self._print_log(last=phase_of(status.state) is not Phase.ACTIVE)
        return status

    def _print_log(self, *, last: bool) -> None:
        try:
            new = self.source.read_log(self.run_id, self.printed + len(self._pending))
        except ServiceError as error:
            if not self._log_unreachable:
                self.log.info("The remote log cannot be read now; the run goes on. %s", error)
            self._log_unreachable = True
            return
        self._log_unreachable = False
        whole, line_break, self._pending = (self._pending + new).rpartition(b"\n")
        if last and self._pending:
            whole, line_break, self._pending = whole + line_break + self._pending, b"", b""
        if whole or line_break:
            for line in whole.decode("utf-8", "replace").split("\n"):
                self.log.info("%s%s", LOG_PREFIX, line.rstrip("\r"))
        self.printed += len(whole) + len(line_break)


class RunTrigger(BaseTrigger):
    """Fires when a run has ended, or when it has taken longer than the site allows; then the run is cancelled.

    The limit is kept here and not as the deferral's timeout, because Airflow tells nobody when that one expires and the run would go on.

    :param run_id: the run's id.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param poll_interval: seconds between two looks.
    :param deadline: seconds since the epoch after which the run is cancelled.
    """

    def __init__(self, run_id: str, azure_ml_conn_id: str, poll_interval: float, deadline: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is untyped
        self.run_id = run_id
        self.azure_ml_conn_id = azure_ml_conn_id
        self.poll_interval = poll_interval
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how to make this trigger again in the triggerer."""
        return (
            "edge_training.triggers.run.RunTrigger",
            {
                "run_id": self.run_id,
                "azure_ml_conn_id": self.azure_ml_conn_id,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the run has ended or its time is over, then say so once; an outage of Azure ML is waited out."""
        source = self._source()
        watcher = RunWatcher(source, self.run_id, self.log, await asyncio.to_thread(self._printed_before))
        unreachable = False
        while True:
            timed_out = time.time() > self.deadline
            try:
                # The SDK is synchronous; a thread keeps it off the triggerer's event loop.
                status = await asyncio.to_thread(self._look, watcher)
            except ServiceError as error:
                if timed_out or not error.retryable:
                    yield TriggerEvent({"run_id": self.run_id, "error": str(error), "retryable": error.retryable})
                    return
                if not unreachable:
                    self.log.warning(
                        "Azure ML cannot be asked now; the run goes on, and so does the waiting. %s", error
                    )
                unreachable = True
                await asyncio.sleep(self.poll_interval)
                continue
            if unreachable:
                self.log.info("Azure ML answers again.")
            unreachable = False
            if phase_of(status.state) is not Phase.ACTIVE:
                yield TriggerEvent({"run_id": self.run_id, "status": status.to_json()})
                return
            if timed_out:
                await asyncio.to_thread(source.cancel, self.run_id)
                yield TriggerEvent({"run_id": self.run_id, "status": status.to_json(), "timed_out": True})
                return
            await asyncio.sleep(self.poll_interval)

    def _source(self) -> RunSource:
        from edge_training.hooks.azure_ml import AzureMLHook
        from edge_training.hooks.retrying import NO_PATIENCE

        # The next look is the retry: a call that waited for an outage to pass would hold up the trigger's end.
        return AzureMLHook(self.azure_ml_conn_id, patience=NO_PATIENCE)

    def _look(self, watcher: RunWatcher) -> RunStatus:
        printed = watcher.printed
        try:
            return watcher.look()
        finally:
            if watcher.printed != printed:
                self._remember_printed(watcher.printed)

    async def on_kill(self) -> None:
        """Cancel the run when a person has marked the deferred task, cleared it, or ended its DAG run.

        Airflow calls this also for a trigger that another triggerer has taken over, because this one was silent for too long; the task
        is then still deferred, and its run is left alone.
        """
        from edge_training.hooks.azure_ml import AzureMLHook

        ti = self.task_instance
        if ti is not None:
            index = -1 if ti.map_index is None else ti.map_index
            if await asyncio.to_thread(is_still_wanted, ti.dag_id, ti.task_id, ti.run_id, index):
                self.log.info("Another triggerer waits for run %s now.", self.run_id)
                return
        self.log.info("The task was ended by a person: cancelling run %s.", self.run_id)
        await asyncio.to_thread(AzureMLHook(self.azure_ml_conn_id).cancel, self.run_id)

    def _printed_before(self) -> int:
        """Return how much of the log a trigger before this one has printed; XCom outlives the triggerer, and ends with the try."""
        ti = self.task_instance
        if ti is None:
            return 0
        found = BaseXCom.get_one(
            key=PRINTED_KEY, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
        )
        return found.get("bytes", 0) if isinstance(found, dict) and found.get("run_id") == self.run_id else 0

    def _remember_printed(self, printed: int) -> None:
        ti = self.task_instance
        if ti is not None:
            value = {"run_id": self.run_id, "bytes": printed}
            BaseXCom.set(
                PRINTED_KEY, value, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
            )


def deadline_after(limit: timedelta) -> float:
    """Return the moment after which a run is cancelled, in seconds since the epoch.

    :param limit: the site's limit on training time.
    """
    return time.time() + limit.total_seconds()
