"""The relay inside the sandbox tells apart a program that has read a request from one that never saw it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_training.deployment.host import processes, relay
from tests.integration.images.support import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nask"
DIE = REQUEST.replace(b"ask", b"die")
# Takes one connection after the other; what it is told on its command line is what it does with each.
PROGRAM = """
import os, socket, sys
does, port = sys.argv[1], int(sys.argv[2])
listener = socket.create_server(("127.0.0.1", port), backlog=64)
while True:
    connection, _ = listener.accept()
    if does == "resets":
        connection.recv(1, socket.MSG_PEEK)
    elif does in ("reads", "answers"):
        request = connection.recv(1024)
        if does == "answers":
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
        if request.endswith(b"die"):
            os._exit(3)
    connection.close()
"""


@contextlib.contextmanager
def relayed(folder: Path, does: str) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Run the relay with a program that does one thing; return its socket file and itself once the program listens behind it."""
    port, socket_file = free_port(), folder / f"{does}.sock"
    order = {"socket": str(socket_file), "port": port, "command": [sys.executable, "-c", PROGRAM, does, str(port)]}
    command = [sys.executable, "-I", "-c", Path(relay.__file__).read_text(), json.dumps(order)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 20
            while not (socket_file.exists() and _listens(port)):
                assert time.monotonic() < deadline, "the program did not come up"
                time.sleep(0.02)
            yield socket_file, process
        finally:
            process.terminate()
            process.communicate()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def ask(socket_file: Path, request: bytes) -> bytes:
    """Send a request and return all that comes; ``b"reset"`` and ``b"refused"`` when the relay is not there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        try:
            connection.connect(str(socket_file))
            connection.sendall(request)
            answer = b""
            while chunk := connection.recv(1024):
                answer += chunk
        except (ConnectionResetError, BrokenPipeError):
            return b"reset"
        except (ConnectionRefusedError, FileNotFoundError):
            return b"refused"
        return answer


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        pytest.param("answers", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", id="answered"),
        pytest.param("reads", b"", id="read, and closed without an answer"),
        pytest.param("resets", relay.NOT_LISTENING, id="closed with the request unread"),
    ],
)
def test_only_a_request_that_was_not_read_may_be_sent_again(tmp_path: Path, does: str, expected: bytes) -> None:
    with relayed(tmp_path, does) as (socket_file, _):
        assert [ask(socket_file, REQUEST) for _ in range(3)] == [expected] * 3


def test_a_connection_that_is_closed_before_anything_was_sent_took_nothing(tmp_path: Path) -> None:
    with relayed(tmp_path, "closes") as (socket_file, _), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(socket_file))
        assert connection.recv(1024) == relay.NOT_LISTENING


def test_it_ends_with_its_program_when_its_starter_is_gone(tmp_path: Path) -> None:
    with relayed(tmp_path, "answers") as (socket_file, process):
        assert ask(socket_file, REQUEST)
        (program,) = processes.family(process.pid) - {process.pid}
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0
        assert ask(socket_file, REQUEST) == b"refused"
        assert processes.started(program) is None


def test_nobody_is_left_without_a_word_while_a_program_dies(tmp_path: Path) -> None:
    told: list[bytes] = []

    def keep_asking(socket_file: Path) -> None:
        while (answer := ask(socket_file, REQUEST)) not in {b"reset", b"refused"}:
            told.append(answer)

    for number in range(5):
        (folder := tmp_path / str(number)).mkdir()
        with relayed(folder, "answers") as (socket_file, _):
            threads = [threading.Thread(target=keep_asking, args=(socket_file,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            assert ask(socket_file, DIE).startswith(b"HTTP/1.1 200")
            for thread in threads:
                thread.join(20)
    assert relay.NOT_LISTENING in told
    assert [answer for answer in told if not answer] == []
