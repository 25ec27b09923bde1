"""What the demo tells of a DAG run while it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from demo.api import LogLine, TaskState
from demo.follow import Follower

if TYPE_CHECKING:
    import pytest

    from demo.api import AirflowApi
    from demo.screen import Screen


class OneTask:
    """An Airflow whose DAG run has one task, seen in these states one after the other."""

    def __init__(self, *seen: TaskState) -> None:
        self._seen = list(seen)
        self.logs_read = 0

    def run_state(self, dag_id: str, run_id: str) -> tuple[str, float]:
        return ("success" if len(self._seen) == 1 else "running"), 3.0

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        return [self._seen.pop(0)]

    def log(self, dag_id: str, run_id: str, task: TaskState) -> list[LogLine]:
        self.logs_read += 1
        return [LogLine("info", f"[remote] line {number}") for number in range(1, self.logs_read + 1)]


class Lines(list[str]):
    """A screen that remembers what was said."""

    def say(self, text: str, style: str = "") -> None:
        self.append(" ".join(text.split()))

    def now(self, text: str) -> None: ...

    def still(self) -> None: ...


def follow(*seen: TaskState) -> list[str]:
    lines = Lines()
    follower = Follower(cast("AirflowApi", OneTask(*seen)), cast("Screen", lines), "dag", "run")
    assert follower.follow(10, lambda: None) == 3.0
    return lines


def test_a_quick_task_that_is_first_seen_when_it_has_ended_is_told_with_airflow_s_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("demo.follow.POLL_SECONDS", 0.0)
    waiting = TaskState("quick", "", 0, "", "")
    ended = TaskState("quick", "success", 1, "2026-11-01T12:00:00.100Z", "2026-11-01T12:00:00.500Z")
    assert follow(waiting, ended) == ["quick success 0.4 s"]


def test_a_second_try_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.follow.POLL_SECONDS", 0.0)
    first = TaskState("slow", "running", 1, "2026-11-01T12:00:00Z", "")
    again = TaskState("slow", "running", 2, "2026-11-01T12:00:05Z", "")
    ended = TaskState("slow", "success", 2, "2026-11-01T12:00:05Z", "2026-11-01T12:00:07Z")
    assert follow(first, again, ended) == ["slow running", "slow running (try 2)", "slow success 2.0 s (try 2)"]


def test_the_remote_log_is_told_to_its_end_and_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.follow.POLL_SECONDS", 0.0)
    waits = TaskState("poll_run", "deferred", 1, "2026-11-01T12:00:00Z", "")
    ended = TaskState("poll_run", "success", 1, "2026-11-01T12:00:00Z", "2026-11-01T12:00:07Z")
    assert follow(waits, ended, ended, ended) == [
        "| line 1",
        "poll_run deferred",
        "| line 2",
        "poll_run success 7.0 s",
    ]
