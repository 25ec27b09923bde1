"""The server, killed with SIGKILL between any two calls.

A parent holds the listening socket and has everything imported; each life of the server is a child of it, which reads
all it knows from the state folder. When a call has been answered and no other goes on, the child kills itself, and the
next call waits in the socket's queue for the next child. So that runs and polls get on, a path that was answered a few
times already is no reason to die again.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_site.azure_ml import server
from local_site.azure_ml.app import make_app
from local_site.azure_ml.backend import open_backend
from local_site.azure_ml.settings import Settings, make_settings

if TYPE_CHECKING:
    import socket

    import uvicorn
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

DEATHS_PER_PATH = 2
PR_SET_PDEATHSIG = 1


class DiesAfterCalls:
    """An application that ends the process when it has answered.

    :param app: the real one.
    :param seen: how often each call has been answered, by earlier lives too.
    :param note: is told of each death.
    """

    def __init__(self, app: ASGIApp, seen: Counter[str], note: int) -> None:
        self._app = app
        self._seen = seen
        self._note = note
        self._going_on = 0
        self._last = ""
        self.server: uvicorn.Server | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._going_on += 1
        path = "/blobs" if scope["path"].startswith("/blobs/") else scope["path"]  # each key is a path of its own
        call = f"{scope['method']} {path}"

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
                if self._going_on == 1 and self._seen[call] < DEATHS_PER_PATH and not call.endswith("/health"):
                    self._accept_no_more(call)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._going_on -= 1
        if self._last and self._going_on == 0:
            await self._die(receive)

    def _accept_no_more(self, call: str) -> None:
        """Leave the next connection to the next life, which shares the listening socket."""
        assert self.server is not None
        self._last = call
        for listener in self.server.servers:
            listener.close()

    async def _die(self, receive: Receive) -> None:
        transport: Any = receive.__self__.transport  # type: ignore[attr-defined]  # uvicorn passes a bound method
        while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.001)
        os.write(self._note, f"{self._last}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def live(settings: Settings, files: tuple[Path, Path], listener: socket.socket, seen: Counter[str], note: int) -> None:
    """Be the server until it dies."""
    backend = open_backend(settings)
    app = DiesAfterCalls(make_app(backend), seen, note)
    app.server = server.make_server(app, *files)
    server.answer(backend, app.server, listener)


def main() -> None:
    """Give the server one life after the other until SIGTERM."""
    words = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    state, port = Path(words["--state"]), int(words["--port"])
    settings = make_settings(state, port, Path(words["--ca-bundle"]), Path(words["--settings"]))
    server.prepare_logging()
    listener = server.listen(port)
    reader, note = os.pipe()
    os.set_blocking(reader, False)
    seen: Counter[str] = Counter()
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    while True:
        child = os.fork()
        if child == 0:
            die_with_parent()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
            live(settings, (Path(words["--cert"]), Path(words["--key"])), listener, seen, note)
            os._exit(0)
        if signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGTERM:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            sys.exit(0)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(os.waitstatus_to_exitcode(status))
        calls = _lines(reader)
        seen.update(calls)
        print(f"killed after {', '.join(calls)}", file=sys.stderr, flush=True)


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _lines(reader: int) -> list[str]:
    try:
        return os.read(reader, 65536).decode().splitlines()
    except BlockingIOError:
        return []


if __name__ == "__main__":
    main()
