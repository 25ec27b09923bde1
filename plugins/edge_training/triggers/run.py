"""Waits for a training run without a worker, and prints its log as it grows."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.xcom import BaseXCom
from airflow.triggers.base import BaseTrigger, TriggerEvent

from edge_training.airflow_state import is_still_wanted
from edge_training.exceptions import ServiceError
from edge_training.lifecycle import Phase, phase_of
from edge_training.progress import NOT_BEGUN, history_from
from edge_training.triggers.hub import ENDS, LOGS, Pace, hub_of, in_thread
from edge_training.triggers.watcher import RunWatcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

    from edge_training.triggers.hub import RunHub, Watch
    from edge_training.triggers.look import RunSource, Sighting

# Where XCom keeps what a trigger after this one has to know: XCom outlives the triggerer, and ends with the try.
REMEMBERED_KEY = "remote_log_printed"


class RunTrigger(BaseTrigger):
    """Fires when a run has ended, or when it has taken longer than the site allows; then the run is cancelled.

    The limit is kept here and not as the deferral's timeout, because Airflow tells nobody when that one expires and the run would go on.
    All triggers that wait for runs of one experiment share the requests for their states.

    :param run_id: the run's id.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param poll_interval: seconds between two looks.
    :param deadline: seconds since the epoch after which the run is cancelled.
    :param experiment: the run's experiment; ``""``, as a trigger of an earlier version of this code has it, costs a request a run.
    """

    def __init__(
        self, run_id: str, azure_ml_conn_id: str, poll_interval: float, deadline: float, experiment: str = ""
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is untyped
        self.run_id = run_id
        self.azure_ml_conn_id = azure_ml_conn_id
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.experiment = experiment

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how to make this trigger again in the triggerer."""
        return (
            "edge_training.triggers.run.RunTrigger",
            {
                "run_id": self.run_id,
                "azure_ml_conn_id": self.azure_ml_conn_id,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "experiment": self.experiment,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the run has ended or its time is over, then say so once; an outage of Azure ML is waited out."""
        hub = hub_of(self.azure_ml_conn_id, self.experiment, self._source)
        watcher = await in_thread(LOGS, self._make_watcher, hub)
        with hub.watch(self.run_id, self.poll_interval) as watch:
            yield TriggerEvent({"run_id": self.run_id, **await self._wait(watch, watcher)})

    async def _wait(self, watch: Watch, watcher: RunWatcher) -> dict[str, Any]:
        """Follow the run, and return what there is to say about its end."""
        unreachable = False
        pace = Pace(self.poll_interval)
        while True:
            timed_out = time.time() > self.deadline
            try:
                sighting = await watch.next(min(pace.left(), self.deadline - time.time()))
            except ServiceError as error:
                if timed_out or not error.retryable:
                    return {"error": str(error), "retryable": error.retryable}
                if not unreachable:
                    self.log.warning(
                        "Azure ML cannot be asked now; the run goes on, and so does the waiting. %s", error
                    )
                unreachable = True
                pace.is_due()
                continue
            if unreachable:
                self.log.info("Azure ML answers again.")
            unreachable = False
            ended = await self._see(sighting, watcher, due=pace.is_due())
            seen = {"status": sighting.run.status.to_json(), "states": watcher.history}
            if ended:
                return seen
            if timed_out:
                await in_thread(ENDS, watcher.source.cancel, self.run_id)
                return {**seen, "timed_out": True}

    async def _see(self, sighting: Sighting, watcher: RunWatcher, *, due: bool) -> bool:
        """Print what is new, and tell whether the run has ended."""
        status = sighting.run.status
        ended = phase_of(status.state) is not Phase.ACTIVE
        if watcher.has_news(status, sighting.ahead) or (due and status.state not in NOT_BEGUN):
            await in_thread(ENDS if ended else LOGS, partial(self._print, ended=ended), watcher, sighting)
        return ended

    def _print(self, watcher: RunWatcher, sighting: Sighting, *, ended: bool) -> None:
        printed, states = watcher.printed, len(watcher.history)
        try:
            watcher.see(sighting.run.status, sighting.ahead, sighting.run.compute)
        finally:
            # That it has ended is told by the event.
            if watcher.printed != printed or (len(watcher.history) != states and not ended):
                self._remember(watcher)

    def _source(self) -> RunSource:
        """Return whom to ask; in a thread, because it imports what takes its time."""
        from edge_training.hooks.azure_ml import AzureMLHook
        from edge_training.hooks.azure_ml_calls import import_the_sdk
        from edge_training.hooks.retrying import NO_PATIENCE

        import_the_sdk()
        # The next look is the retry: a call that waited for an outage to pass would hold up everybody who shares it.
        return AzureMLHook(self.azure_ml_conn_id, patience=NO_PATIENCE)

    def _make_watcher(self, hub: RunHub) -> RunWatcher:
        known = self._remembered()
        printed = known.get("bytes")
        return RunWatcher(
            hub.shared_look().source,
            self.run_id,
            self.log,
            printed if isinstance(printed, int) else 0,
            history_from(known.get("states")),
        )

    async def on_kill(self) -> None:
        """Cancel the run when a person has marked the deferred task, cleared it, or ended its DAG run.

        Airflow calls this also for a trigger that another triggerer has taken over, because this one was silent for too long; the task
        is then still deferred, and its run is left alone.
        """
        ti = self.task_instance
        if ti is not None:
            index = -1 if ti.map_index is None else ti.map_index
            if await asyncio.to_thread(is_still_wanted, ti.dag_id, ti.task_id, ti.run_id, index):
                self.log.info("Another triggerer waits for run %s now.", self.run_id)
                return
        self.log.info("The task was ended by a person: cancelling run %s.", self.run_id)
        await asyncio.to_thread(self._cancel)

    def _cancel(self) -> None:
        from edge_training.hooks.azure_ml import AzureMLHook

        AzureMLHook(self.azure_ml_conn_id).cancel(self.run_id)

    def _remembered(self) -> dict[str, Any]:
        """Return what a trigger before this one has printed and seen of this run."""
        ti = self.task_instance
        if ti is None:
            return {}
        found = BaseXCom.get_one(
            key=REMEMBERED_KEY, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
        )
        return found if isinstance(found, dict) and found.get("run_id") == self.run_id else {}

    def _remember(self, watcher: RunWatcher) -> None:
        ti = self.task_instance
        if ti is not None:
            value = {"run_id": self.run_id, "bytes": watcher.printed, "states": watcher.history}
            BaseXCom.set(
                REMEMBERED_KEY, value, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
            )


def deadline_after(limit: timedelta) -> float:
    """Return the moment after which a run is cancelled, in seconds since the epoch.

    :param limit: the site's limit on training time.
    """
    return time.time() + limit.total_seconds()
