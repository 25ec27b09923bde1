"""Runs inside the sandbox of an image: starts its program, and passes on what comes through a socket file to the program's own port.

So the program has no network at all, two of them never want the same port, and only who may open the socket file reaches it. It is handed
to the image's own ``python3`` as text, with its order as the only argument, and ends with its program.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

NOT_LISTENING = b"HTTP/1.1 503 Not Listening\r\nX-Edge-Relay: not-listening\r\nContent-Length: 0\r\n\r\n"
_CHUNK = 1 << 16
_SECONDS_TO_END = 10.0


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on bytes until there are no more."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def pass_on(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on one connection."""
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        # The program does not listen yet, or not any more: it has seen nothing of the request, which may be sent once more.
        writer.write(NOT_LISTENING)
        writer.close()
        return
    try:
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
    finally:
        inner_writer.close()
        writer.close()


async def end(server: subprocess.Popen[bytes]) -> None:
    """End the program and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        for _ in range(int(_SECONDS_TO_END / 0.05)):
            if server.poll() is not None:
                return
            await asyncio.sleep(0.05)


async def serve(order: dict[str, object]) -> int:
    """Serve until the program ends, or this is told to end; return the exit status."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    socket_file, port = str(order["socket"]), int(str(order["port"]))
    command = order["command"]
    assert isinstance(command, list)  # noqa: S101 - told to the type checker; the order is our own
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: ASYNC220 - nothing else goes on yet
    listener = await asyncio.start_unix_server(lambda reader, writer: pass_on(port, reader, writer), socket_file)
    while server.poll() is None and not told.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(told.wait(), 0.1)
    listener.close()
    if server.poll() is None:
        await end(server)
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
