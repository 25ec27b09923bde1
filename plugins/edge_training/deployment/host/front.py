"""The process that holds a deployment's port: passes each request to the image that serves at that moment, and keeps that one alive.

A new image is started beside the old one and gets requests only when it is promoted, which is one assignment: requests that the old one has
begun are finished by it, the next ones go to the new one, and no connection of a client is closed. What serves is written down, so that
a restart of the front, or of the host, brings it back. It is told what to do over a socket file in its folder, one JSON object per line.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training.deployment.host import sandbox
from edge_training.deployment.host.messages import (
    LARGEST_HEAD,
    MessageError,
    NotListeningError,
    pass_response,
    read_request,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_training.deployment.host.messages import Request

PORT_TAKEN_STATUS = 98
STATE_FILE, CONTROL_FILE = "state.json", "c"
# The order of requests and answers over the socket file; another number means another program.
PROTOCOL = 1
_LARGEST_ORDER = 1 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_SECONDS_TO_END = 10.0
_SECONDS_TO_FINISH = 30.0
_SECONDS_WITHOUT_MODEL = 10.0


@dataclass(frozen=True)
class Target:
    """One image that can be started.

    :param digest: of its manifest.
    :param root: the folder with its files.
    :param run: what its configuration says about running it.
    :param about: what people want to know about it, such as ``reference``, ``model``, ``version`` and ``since``.
    """

    digest: str
    root: str
    run: dict[str, Any]
    about: dict[str, str] = field(default_factory=dict)


class Instance:
    """A target that runs.

    :param target: what runs.
    :param folder: gets its socket file and its log.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self.busy = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.failures = 0
        self.process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ending = False

    async def start(self) -> None:
        """Start it, and start it again whenever it ends without being told to."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Instance]:
        """Keep it from being ended while the block lasts."""
        self.busy += 1
        self.idle.clear()
        try:
            yield self
        finally:
            self.busy -= 1
            if not self.busy:
                self.idle.set()

    @property
    def is_running(self) -> bool:
        """Tell whether its process runs at this moment."""
        return self.process is not None and self.process.returncode is None

    async def _spawn(self) -> None:
        kind = sandbox.best_isolation()
        command = sandbox.command_line(kind, Path(self.target.root), self.target.run, self.folder)
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, env=sandbox.quiet_environment()
            )

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while self.process is not None:
            begin = time.monotonic()
            await self.process.wait()
            if self._ending:
                return
            self.failures += 1
            pause = _FIRST_PAUSE if time.monotonic() - begin > _LONGEST_PAUSE else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)
            await self._spawn()

    async def end(self) -> None:
        """End it once it has answered what it was asked already."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.idle.wait(), _SECONDS_TO_FINISH)
        self._ending = True
        if self._keeper is not None and not self.is_running:
            self._keeper.cancel()
        if self.process is not None:
            for action in (self.process.terminate, self.process.kill):
                with contextlib.suppress(ProcessLookupError):
                    action()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.process.wait(), _SECONDS_TO_END)
                    break
        shutil.rmtree(self.folder, ignore_errors=True)


class Front:
    """Holds the port, and knows what runs behind it.

    :param folder: the deployment's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state: dict[str, Any] = read_state(folder)
        self.instances: dict[str, Instance] = {}
        self.serving = ""
        self.before = ""
        self.quit = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to end; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.quit.set)
        try:
            address = (self.state["address"], self.state["port"])
            server = await asyncio.start_server(self._serve_client, *address, limit=LARGEST_HEAD, backlog=512)
        except OSError as error:
            print(f"Port {address[1]} of {address[0]} cannot be taken: {os.strerror(error.errno or 0)}.", flush=True)
            return PORT_TAKEN_STATUS if error.errno == errno.EADDRINUSE else 1
        control = self.folder / CONTROL_FILE
        control.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "r", ignore_errors=True)
        if active := self.state.get("active"):
            await self._begin(Target(**active))
            self.serving = active["digest"]
        orders = await asyncio.start_unix_server(self._serve_order, str(control), limit=_LARGEST_ORDER)
        await self.quit.wait()
        for listener in (server, orders):
            listener.close()
        control.unlink(missing_ok=True)
        await asyncio.gather(*(instance.end() for instance in self.instances.values()))
        return 0

    async def _begin(self, target: Target) -> Instance:
        instance = self.instances[target.digest] = Instance(target, self.folder / "r" / target.digest[7:15])
        await instance.start()
        return instance

    # Requests -------------------------------------------------------------------------------------------------

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_request(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client is gone; there is nobody to tell
        finally:
            writer.close()

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request, and tell whether another one may follow on the connection."""
        try:
            request = await read_request(reader, writer)
            if request is None:
                return False
            with self._choose().in_use() as instance:
                return await self._pass_on(instance, request, writer)
        except MessageError as error:
            writer.write(_refusal(error))
            await writer.drain()
            return False

    async def _pass_on(self, instance: Instance, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Pass a request on; a program that is just being started again is waited for."""
        deadline = time.monotonic() + _SECONDS_WITHOUT_MODEL
        while time.monotonic() < deadline:
            with contextlib.suppress(NotListeningError, FileNotFoundError, ConnectionRefusedError):
                return await _pass_on_once(instance.folder / sandbox.SOCKET_NAME, request, writer)
            await asyncio.sleep(0.05)
        raise MessageError(503, "The model's program does not run at the moment.")

    def _choose(self) -> Instance:
        instance = self.instances.get(self.serving)
        if instance is None:
            raise MessageError(503, "No model is in service here.")
        return instance

    # Orders ---------------------------------------------------------------------------------------------------

    async def _serve_order(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            order = json.loads(await reader.readline())
            answer = await getattr(self, f"_do_{order['do']}")(order)
        except Exception as error:  # noqa: BLE001 - whatever it is, the front goes on and the one who ordered learns of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(OSError):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _do_status(self, order: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - all orders are called alike
        running = {
            digest: {"pid": one.process.pid if one.process else 0, "running": one.is_running, "failures": one.failures}
            for digest, one in self.instances.items()
        }
        return {"protocol": PROTOCOL, "serving": self.serving, "instances": running, "state": self.state}

    async def _do_start(self, order: dict[str, Any]) -> dict[str, Any]:
        """Start an image beside what serves; one that is left of an order that nobody finished is ended first."""
        target = Target(**order["target"])
        if target.digest in self.instances and target.digest != self.serving:
            await self.instances.pop(target.digest).end()
        instance = self.instances.get(target.digest) or await self._begin(target)
        return {"folder": str(instance.folder), "pid": instance.process.pid if instance.process else 0}

    async def _do_discard(self, order: dict[str, Any]) -> dict[str, Any]:
        """End what does not serve."""
        if order["digest"] != self.serving and (instance := self.instances.pop(order["digest"], None)):
            await instance.end()
        return {}

    async def _do_promote(self, order: dict[str, Any]) -> dict[str, Any]:
        """Give all requests from now on to an image that was started."""
        if order["digest"] not in self.instances:
            return {"error": f"{order['digest']} was not started"}
        if order["digest"] != self.serving:
            self.before, self.serving = self.serving, order["digest"]
        return {"before": self.before}

    async def _do_revert(self, order: dict[str, Any]) -> dict[str, Any]:
        """Give the requests back to what served before, and end the new one."""
        if order["digest"] == self.serving:
            self.serving, self.before = self.before, ""
        return await self._do_discard(order)

    async def _do_settle(self, order: dict[str, Any]) -> dict[str, Any]:
        """Write down what serves, and end all else."""
        target = self.instances[self.serving].target
        earlier = [one for one in self.state.get("earlier", ()) if one["digest"] != target.digest]
        active = self.state.get("active")
        if active and active["digest"] != target.digest:
            earlier = [one for one in earlier if one["digest"] != active["digest"]] + [active]
        self.state = {**self.state, "active": asdict(target), "earlier": earlier[-int(order["keep"]) :]}
        write_state(self.folder, self.state)
        self.before = ""
        for digest in set(self.instances) - {self.serving}:
            await self.instances.pop(digest).end()
        return {"state": self.state}

    async def _do_quit(self, order: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - all orders are called alike
        self.quit.set()
        return {}


def read_state(folder: Path) -> dict[str, Any]:
    """Return what is written down about a deployment: ``address``, ``port``, ``active`` and ``earlier``; nothing when there is none.

    :param folder: the deployment's own.
    """
    try:
        state = json.loads((folder / STATE_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write down a deployment, whole or not at all.

    :param folder: the deployment's own.
    :param state: see :func:`read_state`.
    """
    partial = folder / (STATE_FILE + ".partial")
    with partial.open("w") as file:
        json.dump(state, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / STATE_FILE)


async def _pass_on_once(socket_file: Path, request: Request, writer: asyncio.StreamWriter) -> bool:
    inner_reader, inner_writer = await asyncio.open_unix_connection(str(socket_file), limit=LARGEST_HEAD)
    try:
        with contextlib.suppress(ConnectionError):
            inner_writer.write(request.encode())
            await inner_writer.drain()
        return await pass_response(inner_reader, writer, request)
    finally:
        inner_writer.close()


def _refusal(error: MessageError) -> bytes:
    body = json.dumps({"message": error.reason}).encode()
    head = f"HTTP/1.1 {error.status} Refused\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Retry-After: 1\r\nConnection: close\r\n\r\n".encode() + body


def main(folder: str) -> None:
    """Hold the port of a deployment.

    :param folder: the deployment's own.
    """
    os.umask(0o077)
    sys.exit(asyncio.run(Front(Path(folder)).run()))
