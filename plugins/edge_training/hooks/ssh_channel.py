"""A command on the other side of an SSH connection: its input, its output, its end."""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import paramiko

_OUTPUT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class CommandResult:
    """How a command on the VM ended.

    :param status: its exit status.
    :param stdout: what it printed, undecodable bytes replaced.
    :param stderr: likewise.
    """

    status: int
    stdout: str
    stderr: str


def talk(channel: paramiko.Channel, stdin: bytes | Iterable[bytes], deadline: float) -> CommandResult:
    """Send standard input and collect the output until the command is over.

    :param channel: the channel, on which the command was started.
    :param stdin: what the command reads, at once or piece by piece.
    :param deadline: when to give up, on the monotonic clock.
    :raises OSError: when the connection breaks (``EOFError`` likewise), the deadline passes, or it prints more than 4 MiB.
    """
    # A command that ends without reading its input closes the channel, and its status tells why.
    with suppress(OSError):
        for piece in [stdin] if isinstance(stdin, bytes) else stdin:
            channel.sendall(piece)
        channel.shutdown_write()
    out, err = bytearray(), bytearray()
    while True:
        # Asked before the data is looked at: what arrives before the end is then not missed.
        over = channel.eof_received or channel.closed
        if channel.recv_ready():
            out += channel.recv(65536)
        elif channel.recv_stderr_ready():
            err += channel.recv_stderr(65536)
        elif over:
            break
        elif time.monotonic() > deadline:
            raise TimeoutError("no answer")
        else:
            select.select([channel], [], [], 1.0)
        if len(out) + len(err) > _OUTPUT_BYTES:
            raise OSError("it printed too much")
    status = channel.recv_exit_status()
    if status < 0:
        raise EOFError
    return CommandResult(status, out.decode(errors="replace"), err.decode(errors="replace"))


def reason_of(error: Exception) -> str:
    """Say in few words why a connection failed.

    :param error: what the socket or paramiko raised.
    """
    if isinstance(error, socket.gaierror):
        return "its host name is unknown to DNS here"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused, so no SSH server listens there: is the VM running?"
    if isinstance(error, TimeoutError):
        return "no answer in time: is the VM running, and the way to it open?"
    if isinstance(error, EOFError):
        return "the connection was closed"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
