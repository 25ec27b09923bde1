"""Follows a DAG run: each task's state as it changes, and the remote training log as it grows."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

from demo.api import POLL_SECONDS
from demo.errors import DemoError, RunFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.api import AirflowApi, TaskState
    from demo.screen import Screen

REMOTE_LOG_TASK = "poll_run"
REMOTE_PREFIX = "[remote] "
STYLES = {
    "success": "green",
    "failed": "bold red",
    "upstream_failed": "red",
    "up_for_retry": "yellow",
    "deferred": "blue",
}
# States between which a task changes within milliseconds; a person learns nothing from them.
UNTOLD = {"", "scheduled", "queued", "removed"}
TRIED = {"failed", "up_for_retry"}
ENDED = {"success", "failed"}
LOG_TAIL_LINES = 25


class Follower:
    """Prints what is new about one DAG run, each thing once.

    :param api: the Airflow.
    :param screen: where to print.
    """

    def __init__(self, api: AirflowApi, screen: Screen, dag_id: str, run_id: str) -> None:
        self._api = api
        self._screen = screen
        self._dag_id = dag_id
        self._run_id = run_id
        self._told: dict[str, tuple[int, str]] = {}
        self._since: dict[str, float] = {}
        self._remote_lines: dict[int, int] = {}

    def follow(self, timeout_seconds: float, check: Callable[[], None]) -> float:
        """Print until the DAG run ends.

        :param timeout_seconds: how long it may take.
        :param check: called now and then; raises when waiting makes no sense any more.
        :return: the run's duration in seconds, as Airflow counts it.
        :raises RunFailedError: when the run failed; the ends of its failed tasks' logs were printed before.
        :raises DemoError: when it took too long.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            while True:
                state, seconds = self._api.run_state(self._dag_id, self._run_id)
                # The tasks after the run's state: what they say then is their last word.
                tasks = self._api.tasks(self._dag_id, self._run_id)
                self._tell_tasks(tasks)
                if state in {"success", "failed"}:
                    break
                check()
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"DAG run {self._run_id} is still {state} after {timeout_seconds:.0f} s. Look at it in the UI; "
                        "DEMO_TIMEOUT_SECONDS sets how long the demo waits."
                    )
                time.sleep(POLL_SECONDS)
        finally:
            self._screen.still()
        if state == "failed":
            raise RunFailedError(f"DAG run {self._run_id} failed; see above which task, and why.")
        return seconds

    def _tell_tasks(self, tasks: list[TaskState]) -> None:
        for task in tasks:
            # When the end of the task has been told, so has its whole log.
            is_told = task.state in ENDED and self._told.get(task.task_id) == (task.try_number, task.state)
            if task.task_id == REMOTE_LOG_TASK and task.state and not is_told:
                self._tell_remote_log(task)
            self._tell_state(task)
        active = [task for task in tasks if task.state in {"running", "deferred"}]
        waits = [f"{task.task_id} {time.monotonic() - self._since.get(task.task_id, 0):.0f} s" for task in active]
        self._screen.now("  ".join(waits) or "between two tasks")

    def _tell_state(self, task: TaskState) -> None:
        if task.state in UNTOLD or self._told.get(task.task_id) == (task.try_number, task.state):
            return
        earlier = self._told.get(task.task_id)
        self._told[task.task_id] = (task.try_number, task.state)
        begin = self._since.setdefault(task.task_id, time.monotonic())
        # A deferred task that runs again is the same wait.
        if earlier and earlier[1] == "deferred" and task.state == "running":
            return
        took = f"{_seconds(task, begin):5.1f} s" if task.state not in {"running", "deferred"} else ""
        again = f"  (try {task.try_number})" if task.try_number > 1 else ""
        self._screen.say(f"{task.task_id:<26}{task.state:<12}{took}{again}".rstrip(), STYLES.get(task.state, ""))
        if task.state in TRIED:
            self._tell_log_tail(task)

    def _tell_remote_log(self, task: TaskState) -> None:
        lines = [
            line.text.removeprefix(REMOTE_PREFIX)
            for line in self._api.log(self._dag_id, self._run_id, task)
            if line.text.startswith(REMOTE_PREFIX)
        ]
        for line in lines[self._remote_lines.get(task.try_number, 0) :]:
            self._screen.say(f"    | {line}", "dim")
        self._remote_lines[task.try_number] = len(lines)

    def _tell_log_tail(self, task: TaskState) -> None:
        lines = self._api.log(self._dag_id, self._run_id, task)
        text = "\n".join(f"{line.level.upper():<8}{line.text}" for line in lines[-LOG_TAIL_LINES:])
        self._screen.say(f"The end of the log of {task.task_id}, try {task.try_number}:\n{text}", "red")


def _seconds(task: TaskState, begin: float) -> float:
    """Return how long a task that has ended took, by Airflow's own clock; quick ones are seen for the first time when they have ended."""
    if task.started and task.ended:
        return (datetime.fromisoformat(task.ended) - datetime.fromisoformat(task.started)).total_seconds()
    return time.monotonic() - begin
