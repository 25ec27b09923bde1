"""Runs inside an image: starts its program, waits until it is healthy, sends one request, and tells what came back.

It is handed to the image's own ``python3`` as text, so it uses nothing but the standard library and needs no file there.
Its order comes as JSON on standard input, its answer goes as one line of JSON to standard output.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO, Any

_PAUSE = 0.02
_LOG_TAIL = 4000
_SECONDS_TO_END = 5


def _ask(order: dict[str, Any], method: str, path: str, body: bytes | None, seconds: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", order["port"], timeout=max(seconds, 0.1))
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def _healthy(order: dict[str, Any], seconds: float) -> bool:
    try:
        return _ask(order, "GET", order["health_path"], None, seconds)[0] == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def _wait(server: subprocess.Popen[bytes], order: dict[str, Any], deadline: float) -> str:
    """Wait until the server is healthy; return why it is not, or nothing."""
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return f"its program ended with exit code {server.returncode} before it was healthy"
        if _healthy(order, deadline - time.monotonic()):
            return ""
        time.sleep(_PAUSE)
    return f"it was not healthy (GET {order['health_path']} on port {order['port']}) after {order['seconds']:g} s"


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_SECONDS_TO_END)
            return


def _tail(log: IO[bytes]) -> str:
    log.seek(0, os.SEEK_END)
    log.seek(max(log.tell() - _LOG_TAIL, 0))
    return log.read().decode("utf-8", "replace")


def _probe(order: dict[str, Any], server: subprocess.Popen[bytes], start: float) -> dict[str, Any]:
    deadline = start + order["seconds"]
    if reason := _wait(server, order, deadline):
        return {"error": reason}
    healthy = time.monotonic()
    try:
        body = base64.b64decode(order["body"])
        status, answer = _ask(order, "POST", order["path"], body, deadline - healthy)
    except (OSError, http.client.HTTPException) as error:
        return {"error": f"it was healthy but did not answer POST {order['path']}: {type(error).__name__}: {error}"}
    return {
        "status": status,
        "body": base64.b64encode(answer).decode(),
        "start_seconds": healthy - start,
        "request_seconds": time.monotonic() - healthy,
    }


def main() -> None:
    """Do what the order on standard input says."""
    # Told to end, the probe leaves through its `finally`, so that the server ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    order = json.load(sys.stdin)
    if _healthy(order, 1):
        print(json.dumps({"error": f"something else answers on port {order['port']} already", "log": ""}))
        return
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        try:
            server = subprocess.Popen(
                order["command"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        except OSError as error:
            print(json.dumps({"error": f"its program '{order['command'][0]}' cannot be run: {error}", "log": ""}))
            return
        try:
            answer = _probe(order, server, start)
        finally:
            _end(server)
        print(json.dumps({**answer, "log": _tail(log)}))


if __name__ == "__main__":
    main()
