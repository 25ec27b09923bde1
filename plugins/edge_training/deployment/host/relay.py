"""Runs inside the sandbox of an image: starts its program, and passes on what comes through a socket file to the program's own port.

So the program has no network at all, two of them never want the same port, and only who may open the socket file reaches it. It is handed
to the image's own ``python3`` as text, with its order as the only argument, and ends with its program, or when its standard input is
closed, which whoever started the sandbox keeps open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

NOT_LISTENING = b"HTTP/1.1 503 Not Listening\r\nX-Edge-Relay: not-listening\r\nContent-Length: 0\r\n\r\n"
_CHUNK = 1 << 16
_SECONDS_TO_END = 10.0
_SECONDS_TO_BEGIN, _SECONDS_TO_TELL = 0.05, 1.0


class Pump:
    """Passes on bytes in one direction.

    :param reader: where they come from.
    :param writer: where they go.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.passed = 0

    async def run(self) -> None:
        """Pass them on until there are no more, or a connection breaks."""
        with contextlib.suppress(OSError):
            while chunk := await self.reader.read(_CHUNK):
                self.passed += len(chunk)
                self.writer.write(chunk)
                await self.writer.drain()


async def pass_on(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on one connection, and say so when the program did not take the request: it may be sent once more then.

    That is so when the program does not listen, and when it ends before it has read what was sent: the kernel resets its connections then.
    A program that has read the request and ends without an answer closes its connection, and so do we.
    """
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.write(NOT_LISTENING)
        writer.close()
        return
    request, answer = Pump(reader, inner_writer), Pump(inner_reader, writer)
    asking = asyncio.ensure_future(ask(request))
    try:
        await answer.run()
        if not answer.passed and not (request.passed and was_read(inner_reader, inner_writer)):
            writer.write(NOT_LISTENING)
    finally:
        asking.cancel()
        inner_writer.close()
        writer.close()


async def ask(request: Pump) -> None:
    """Pass on a request, and its end."""
    await request.run()
    with contextlib.suppress(OSError):
        request.writer.write_eof()


def was_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Tell whether the other side of a connection has read all that it got before it closed."""
    if reader.exception() is not None or writer.transport.is_closing():
        return False
    # What arrived after the end was answered by a reset that no reading shows.
    return not writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


async def end(server: subprocess.Popen[bytes]) -> None:
    """End the program and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        for _ in range(int(_SECONDS_TO_END / 0.05)):
            if server.poll() is not None:
                return
            await asyncio.sleep(0.05)


def tell_when_closed(descriptor: int, told: asyncio.Event) -> None:
    """Set an event when the other end of a pipe is closed."""
    loop = asyncio.get_running_loop()

    def look() -> None:
        if not os.read(descriptor, _CHUNK):
            loop.remove_reader(descriptor)
            told.set()

    try:
        loop.add_reader(descriptor, look)
    except PermissionError as error:
        raise OSError(f"its standard input is not a pipe that its starter holds ({error})") from error


async def serve(order: dict[str, object]) -> int:
    """Serve until the program ends, or this is told to end; return the exit status."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    tell_when_closed(sys.stdin.fileno(), told)
    socket_file, port = str(order["socket"]), int(str(order["port"]))
    command = order["command"]
    assert isinstance(command, list)  # noqa: S101 - told to the type checker; the order is our own
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: ASYNC220 - nothing else goes on yet
    passing: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(pass_on(port, reader, writer))
        passing.add(task)
        task.add_done_callback(passing.discard)

    listener = await asyncio.start_unix_server(begin, socket_file)
    while server.poll() is None and not told.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(told.wait(), 0.1)
    listener.close()
    was_told = server.poll() is None
    if was_told:
        await end(server)
    # Whoever still asked the program learns that it is gone; a connection that was just taken needs a moment to become a task.
    await asyncio.sleep(_SECONDS_TO_BEGIN)
    if passing:
        await asyncio.wait(passing, timeout=_SECONDS_TO_TELL)
    if was_told:
        return 0
    print(f"The image's program ended with exit status {server.returncode}.", flush=True)
    return 1


def main() -> None:
    """Do what the order says."""
    order = json.loads(sys.argv[1])
    # An earlier program behind the same file may have been killed.
    Path(order["socket"]).unlink(missing_ok=True)
    try:
        status = asyncio.run(serve(order))
    except OSError as error:
        print(f"The image's program '{order['command'][0]}' cannot be run: {error}", flush=True)
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
