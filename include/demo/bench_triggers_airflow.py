"""What the bench of the triggers does inside Airflow: it makes the deferred tasks, and beats on the triggerer's event loop.

`python -m demo.bench_triggers_airflow PLAN` fills the database of the Airflow that the environment names; PLAN is a JSON file.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from edge_training.triggers.hub import hub_of
from edge_training.triggers.run import RunTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from io import FileIO

    from sqlalchemy.orm import Session

    from edge_training.triggers.look import RunSource

DAG_ID = "bench_triggers"
DAG_RUN = "bench"
TASK = "poll_run"
CONNECTION = "azure_ml"
BEAT_SECONDS = 0.01


class WaitingOperator(BaseOperator):
    """A task that is deferred already.

    :param number: which one.
    """

    def __init__(self, *, number: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number


class Pauses:
    """Measures how long the garbage collector takes, during which no thread does anything."""

    def __init__(self) -> None:
        self._begin = self._computed = self._longest = 0.0
        self.spent = 0.0
        """Seconds of processor time of all collections so far, whichever thread ran them."""
        self.is_open = False
        """Whether one has begun whose end was not noted yet: the thread that ran it loses the interpreter's lock right after it."""
        gc.callbacks.append(self._note)

    def longest(self) -> float:
        """Return the seconds of the longest collection since the last call."""
        longest, self._longest = self._longest, 0.0
        return longest

    def _note(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._begin, self._computed, self.is_open = time.monotonic(), time.thread_time(), True
        else:
            self._longest = max(self._longest, time.monotonic() - self._begin)
            self.spent += time.thread_time() - self._computed
            self.is_open = False


class BeatTrigger(BaseTrigger):
    """Wakes a hundred times a second on the triggerer's event loop, and writes down how late it was.

    Each second it adds a line to a file: the moment, the longest delay (without garbage collections, and without the time in which the
    loop's thread was ready and had no processor, for then another program had it), of that the processor time of the loop's own thread
    (what is missing was spent waiting, mostly for the interpreter's lock), the longest delay with everything, how many triggers have seen
    their run, the longest garbage collection, and the longest delay with it.

    :param file: where to.
    :param experiment: whose runs are waited for.
    """

    def __init__(self, file: str, experiment: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is untyped
        self.file = file
        self.experiment = experiment

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return how to make this trigger again."""
        return "demo.bench_triggers_airflow.BeatTrigger", {"file": self.file, "experiment": self.experiment}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Beat until the triggerer ends."""
        worst, paused, whole, begin = (0.0, 0.0), 0.0, 0.0, time.monotonic()
        pauses = Pauses()
        thread = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        with thread.open("rb", buffering=0) as schedule:  # noqa: ASYNC230 - the kernel's own, in memory
            while True:
                before, collected = (time.monotonic(), time.thread_time(), _starved(schedule)), pauses.spent
                await asyncio.sleep(BEAT_SECONDS)
                after = (time.monotonic(), time.thread_time(), _starved(schedule))
                late, worked, starved = (new - old for new, old in zip(after, before, strict=True))
                late -= BEAT_SECONDS
                while pauses.is_open:  # noqa: ASYNC110 - it is another thread that is waited for
                    await asyncio.sleep(0)
                collecting = pauses.spent - collected
                whole, paused = max(whole, late), max(paused, late - starved)
                worst = max(worst, (max(0.0, late - starved - collecting), worked))
                if time.monotonic() - begin >= 1.0:
                    line = json.dumps([time.time(), *worst, whole, self._waiting(), pauses.longest(), paused])
                    await asyncio.to_thread(self._write, line + "\n")
                    worst, paused, whole, begin = (0.0, 0.0), 0.0, 0.0, time.monotonic()
        yield TriggerEvent({})

    def _waiting(self) -> int:
        return hub_of(CONNECTION, self.experiment, self._source).answered()

    def _source(self) -> RunSource:
        # Imported here, for this module is imported on the event loop that is measured.
        from edge_training.hooks.azure_ml import AzureMLHook

        return AzureMLHook(CONNECTION)

    def _write(self, line: str) -> None:
        with Path(self.file).open("a") as stream:
            stream.write(line)


def _starved(schedule: FileIO) -> float:
    """Return the seconds that a thread was ready and had no processor, from what the kernel counts in nanoseconds."""
    schedule.seek(0)
    return int(schedule.read().split()[1]) / 1e9


def main() -> None:
    """Fill the database."""
    from airflow.utils.db import upgradedb
    from airflow.utils.session import create_session

    plan = json.loads(Path(sys.argv[1]).read_text())
    upgradedb()
    with create_session() as session:
        _make_dag_run(session, len(plan["runs"]) + 1)
        session.flush()
        _defer(session, plan)


def _make_dag_run(session: Session, tasks: int) -> None:
    from airflow.dag_processing.collection import update_dag_parsing_results_in_db
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    with DAG(DAG_ID, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        WaitingOperator.partial(task_id=TASK).expand(number=list(range(tasks)))
    dag.fileloc = __file__
    dag.relative_fileloc = Path(__file__).name
    session.add(DagBundleModel(name="bench"))
    session.flush()
    update_dag_parsing_results_in_db("bench", None, [LazyDeserializedDAG.from_dag(dag)], {}, 0.0, set(), session)
    session.flush()
    found = SerializedDagModel.get_dag(DAG_ID, session=session)
    if found is None:
        raise RuntimeError("Airflow did not take the DAG of the bench.")
    found.create_dagrun(
        run_id=DAG_RUN,
        run_after=datetime.now(UTC),
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.TEST,
        state=DagRunState.RUNNING,
        session=session,
    )


def _defer(session: Session, plan: dict[str, Any]) -> None:
    """Defer each task with the trigger of its run, and one more with the one that beats."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import select

    triggers: list[BaseTrigger] = [
        RunTrigger(run_id, CONNECTION, plan["interval"], time.time() + 3600, plan["experiment"])
        for run_id in plan["runs"]
    ]
    triggers.append(BeatTrigger(plan["beats"], plan["experiment"]))
    instances = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == DAG_ID)).all()
    for instance in instances:
        row = Trigger.from_object(triggers[instance.map_index])
        session.add(row)
        session.flush()
        instance.state = TaskInstanceState.DEFERRED
        instance.trigger_id = row.id
        instance.next_method = "execute_complete"
        instance.next_kwargs = {}
        instance.try_number = 1
        instance.start_date = datetime.now(UTC)


if __name__ == "__main__":
    main()
