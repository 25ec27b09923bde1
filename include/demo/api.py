"""Airflow's REST API, as far as the demo needs it: what a person does in the UI."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests

from demo.errors import DemoError

if TYPE_CHECKING:
    from collections.abc import Iterator

POLL_SECONDS = 0.5
PREPARATION_SECONDS = 60


@dataclass(frozen=True)
class TaskState:
    """One task of a DAG run.

    :param state: Airflow's word, ``""`` before the task is looked at.
    :param try_number: 0 before the first try.
    :param started: ISO 8601, or ``""``.
    :param ended: ISO 8601, or ``""``.
    """

    task_id: str
    state: str
    try_number: int
    started: str
    ended: str


@dataclass(frozen=True)
class LogLine:
    """One line of a task's log.

    :param level: ``info``, ``error``, ... or ``""``.
    :param text: the line, and below it what an exception said.
    """

    level: str
    text: str


class AirflowApi:
    """Speaks with one Airflow as a user.

    :param url: ``http://host:port``.
    :param user: the user's name.
    :param password: the user's password.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._login = {"username": user, "password": password}
        self._session = requests.Session()
        # Neither a proxy nor a netrc file has anything to do with a server on this machine.
        self._session.trust_env = False

    def prepare_for_tasks(self) -> None:
        """Let Airflow build its API for tasks, which it does at the first question: the first task would wait for it for seconds.

        :raises DemoError: when it does not answer.
        """
        try:
            answer = self._session.get(f"{self._url}/execution/health", timeout=PREPARATION_SECONDS)
        except requests.RequestException as error:
            raise DemoError(f"Airflow's API for tasks does not answer: {error}") from error
        if not answer.ok:
            raise DemoError(f"Airflow's API for tasks answers {answer.status_code}: {answer.text[:500]}")

    def wait_until_healthy(self, started_after: float, seconds: float) -> None:
        """Wait until scheduler and triggerer have reported: whoever triggers a DAG earlier waits for them all the same, and longer.

        :param started_after: only reports after this moment count, in seconds since 1970; older ones are of processes that are gone.
        :param seconds: how long to wait.
        :raises DemoError: when they have not, with what Airflow says of them.
        """
        deadline = time.monotonic() + seconds
        while True:
            health = self._get("/monitor/health")
            reports = [health[name][f"latest_{name}_heartbeat"] for name in ("scheduler", "triggerer")]
            if all(report and _seconds(report) >= started_after for report in reports):
                return
            if time.monotonic() > deadline:
                raise DemoError(f"Airflow's scheduler or triggerer does not get ready: {health}")
            time.sleep(POLL_SECONDS)

    def wait_for_dag(self, dag_id: str, parsed_after: float, seconds: float) -> None:
        """Wait until the DAG processor has read a DAG.

        :param dag_id: the DAG.
        :param parsed_after: only a reading after this moment counts, in seconds since 1970.
        :param seconds: how long to wait.
        :raises DemoError: when it has not, with the import errors that Airflow shows.
        """
        deadline = time.monotonic() + seconds
        while True:
            dag = self._get_or_none(f"/dags/{dag_id}")
            if dag and dag["last_parsed_time"] and _seconds(dag["last_parsed_time"]) >= parsed_after:
                return
            errors = self._get("/importErrors")["import_errors"]
            fresh = [error for error in errors if _seconds(error["timestamp"]) >= parsed_after]
            if fresh or time.monotonic() > deadline:
                said = "\n".join(f"{error['filename']}:\n{error['stack_trace']}" for error in errors)
                raise DemoError(f"Airflow could not read DAG {dag_id}. {said or 'It shows no import error.'}")
            time.sleep(POLL_SECONDS)

    def trigger(self, dag_id: str) -> str:
        """Start a DAG run, after taking the pause off its DAG, and return its id."""
        self._send("PATCH", f"/dags/{dag_id}", {"is_paused": False})
        run: dict[str, str] = self._send("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None})
        return run["dag_run_id"]

    def run_state(self, dag_id: str, run_id: str) -> tuple[str, float]:
        """Return a DAG run's state and the seconds from its start to its end, or to now."""
        run = self._get(f"/dags/{dag_id}/dagRuns/{run_id}")
        begin, end = run["start_date"], run["end_date"]
        last = _seconds(end) if end else time.time()
        return str(run["state"]), last - _seconds(begin) if begin else 0.0

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Return the tasks of a DAG run in the order in which they started; those that have not are last."""
        found = self._get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        states = [
            TaskState(
                task_id=task["task_id"],
                state=task["state"] or "",
                try_number=task["try_number"],
                started=task["start_date"] or "",
                ended=task["end_date"] or "",
            )
            for task in found
        ]
        return sorted(states, key=lambda task: task.started or "9")

    def log(self, dag_id: str, run_id: str, task: TaskState) -> list[LogLine]:
        """Return what one try of a task has logged so far."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/logs/{max(task.try_number, 1)}"
        answer = self._get_or_none(path, {"full_content": "true"}) or {"content": []}
        return [LogLine(entry.get("level") or "", "\n".join(_texts(entry))) for entry in answer["content"]]

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task handed on.

        :raises DemoError: when it handed on nothing.
        """
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        entry = self._get_or_none(path)
        if entry is None:
            raise DemoError(f"Task {task_id} of DAG run {run_id} succeeded, but handed on nothing.")
        return entry["value"]

    def _get(self, path: str) -> Any:
        return self._send("GET", path)

    def _get_or_none(self, path: str, query: dict[str, str] | None = None) -> Any:
        return self._send("GET", path, query=query, missing_is_none=True)

    def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        query: dict[str, str] | None = None,
        missing_is_none: bool = False,
    ) -> Any:
        try:
            answer = self._request(method, path, body, query)
            if answer.status_code == requests.codes.unauthorized:
                self._log_in()
                answer = self._request(method, path, body, query)
        except requests.RequestException as error:
            raise DemoError(f"Airflow's API does not answer: {error}") from error
        if missing_is_none and answer.status_code == requests.codes.not_found:
            return None
        if not answer.ok:
            raise DemoError(f"Airflow answered {method} {path} with {answer.status_code}: {answer.text[:500]}")
        return answer.json()

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None, query: dict[str, str] | None
    ) -> requests.Response:
        headers = {"Accept": "application/json"}
        return self._session.request(
            method, f"{self._url}/api/v2{path}", json=body, params=query, headers=headers, timeout=30
        )

    def _log_in(self) -> None:
        answer = self._session.post(f"{self._url}/auth/token", json=self._login, timeout=30)
        if not answer.ok:
            raise DemoError(f"Airflow refused the login of {self._login['username']}: {answer.status_code}.")
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()


def _texts(entry: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of one entry of a log: its event, and the last words of the exceptions that came with it."""
    yield str(entry.get("event", ""))
    for exception in entry.get("error_detail") or ():
        yield f"{exception.get('exc_type')}: {exception.get('exc_value')}"
