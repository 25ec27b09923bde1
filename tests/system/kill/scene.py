"""One DAG of the stack as a person sees and handles it, and the runs of its site as Azure ML holds them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from demo.settings import PROJECT
from tests.system.chaos.evidence import Witness
from tests.system.chaos.lanes import PROJECT_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.api import TaskState
    from tests.system.chaos.stack import ChaosStack

POLL = "poll_run"
TRIGGERER = "airflow-triggerer"
SCHEDULER = "airflow-scheduler"
MAIN = 'if __name__ == "__main__":'
# What the training does before it trains.
DELAY = """
import time

for second in range({seconds}):
    edge_context.log_text(f"still here after {{second}} s")
    time.sleep(1)

"""


def wait_for(what: str, found: Callable[[], Any], seconds: float = 240.0) -> Any:
    """Wait until something is so, and return what it is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(1)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


class Scene:
    """A DAG, and after :meth:`start` its newest DAG run.

    :param stack: where it lives.
    :param name: the lane's name.
    """

    def __init__(self, stack: ChaosStack, name: str) -> None:
        self.lane = next(lane for lane in stack.lanes if lane.name == name)
        self.stack = stack
        self.api = stack.api
        self.dag_id = self.lane.dag_id
        self.dag_run = ""
        self.known: set[str] = set(self._runs())
        self.training = (PROJECT / "include" / "training_scripts" / PROJECT_NAME / "train.py").read_text()

    def start(self, seconds: int) -> None:
        """Start a DAG run whose training takes this long before it begins in earnest."""
        head, main, tail = self.training.rpartition(MAIN)
        self.lane.script.write_text(head + DELAY.format(seconds=seconds) + main + tail)
        self.dag_run = self.api.trigger(self.dag_id)

    def started(self) -> str:
        """Wait until the training has begun and its first line is in the task's log, and return the run's id."""
        wait_for("a line of the remote log", self.lines)
        (run_id,) = self.runs()
        return run_id

    def _runs(self) -> dict[str, str]:
        return Witness(self.stack, self.lane)._look("").runs

    def runs(self) -> dict[str, str]:
        """Return the runs since this scene began: id → state."""
        return {run: state for run, state in self._runs().items() if run not in self.known}

    def task(self, task_id: str = POLL) -> TaskState:
        return next(one for one in self.api.tasks(self.dag_id, self.dag_run) if one.task_id == task_id)

    def log(self, task_id: str = POLL, try_number: int | None = None) -> list[str]:
        """Return what a try of a task has said so far; the newest one by default."""
        task = self.task(task_id)
        wanted = task if try_number is None else replace(task, try_number=try_number)
        return [line.text for line in self.api.log(self.dag_id, self.dag_run, wanted)]

    def lines(self) -> list[str]:
        """Return what the script has said, as the waiting task has printed it."""
        marked = [line for line in self.log() if "[remote] script | still here" in line]
        return [line.rpartition("after ")[2] for line in marked]

    def set_task_state(self, state: str, task_id: str = POLL) -> None:
        path = f"/dags/{self.dag_id}/dagRuns/{self.dag_run}/taskInstances/{task_id}"
        self.api._send("PATCH", path, {"new_state": state})

    def set_state(self, state: str) -> None:
        self.api._send("PATCH", f"/dags/{self.dag_id}/dagRuns/{self.dag_run}", {"state": state})

    def clear(self, task_id: str = POLL) -> None:
        """Clear a task and what follows it, as a person does in the UI."""
        body = {
            "dag_run_id": self.dag_run,
            "task_ids": [task_id],
            "dry_run": False,
            "only_failed": False,
            "include_downstream": True,
            "reset_dag_runs": True,
        }
        self.api._send("POST", f"/dags/{self.dag_id}/clearTaskInstances", body)

    def state(self) -> str:
        return self.api.run_state(self.dag_id, self.dag_run)[0]

    def ended(self) -> str:
        """Wait for the end of the DAG run, and return its state."""
        wait_for("the end of the DAG run", lambda: self.state() in {"success", "failed"})
        return self.state()

    def value(self, task_id: str) -> Any:
        return self.api.xcom(self.dag_id, self.dag_run, task_id)


def end_triggerer(stack: ChaosStack) -> None:
    """Kill the triggerer, with all that it has started."""
    stack.kill(TRIGGERER)
    wait_for("the end of the triggerer", lambda: not stack.runs(TRIGGERER))
    stack.end_leftovers(TRIGGERER)
