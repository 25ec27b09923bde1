"""What the demo's client of Airflow's API makes of the answers."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from demo.api import AirflowApi
from demo.errors import DemoError

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@contextmanager
def airflow(*answers: dict[str, Any]) -> Iterator[tuple[AirflowApi, list[str]]]:
    """Answer questions about health one after the other, the last answer again and again; and tell what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer({"access_token": "token"})

        def do_GET(self) -> None:
            asked.append(self.path)
            self._answer(answers[min(len(asked), len(answers)) - 1])

        def _answer(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield AirflowApi(f"http://127.0.0.1:{server.server_port}", "admin", "secret"), asked
        finally:
            server.shutdown()
            thread.join()


def health(scheduler: float | None, triggerer: float | None) -> dict[str, Any]:
    """Return what Airflow says when its processes reported so many seconds before, or never."""

    def text(seconds: float | None) -> str | None:
        return None if seconds is None else (NOW - timedelta(seconds=seconds)).isoformat()

    return {
        "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": text(scheduler)},
        "triggerer": {"status": "healthy", "latest_triggerer_heartbeat": text(triggerer)},
    }


def test_a_report_of_a_process_that_is_gone_does_not_count() -> None:
    old, half, fresh = health(20, None), health(1, 20), health(1, 2)
    with airflow(old, half, fresh) as (api, asked):
        api.wait_until_healthy(started_after=NOW.timestamp() - 10, seconds=20)
    assert [path for path in asked if path.endswith("/monitor/health")] == ["/api/v2/monitor/health"] * 3


def test_a_triggerer_that_never_reports_is_named() -> None:
    with (
        airflow(health(1, None)) as (api, _),
        pytest.raises(
            DemoError, match=r"scheduler or triggerer does not get ready.*'latest_triggerer_heartbeat': None"
        ),
    ):
        api.wait_until_healthy(started_after=NOW.timestamp() - 10, seconds=0)


def test_the_api_for_tasks_is_asked_before_the_first_task_asks() -> None:
    with airflow({"status": "healthy"}) as (api, asked):
        api.prepare_for_tasks()
    assert asked == ["/execution/health"]
    with pytest.raises(DemoError, match="API for tasks does not answer"):
        api.prepare_for_tasks()
