"""Talking to an attached virtual machine: log in with what was given at attach, and only to the machine it was then."""

from __future__ import annotations

import base64
import hashlib
import io
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import paramiko

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CONNECT_SECONDS = 10
CHUNK = 64 * 1024
LARGEST_REPLY = 1024 * 1024
KEY_KINDS: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


class VMError(Exception):
    """The virtual machine cannot be used; the message says why.

    :param code: one word for it, which goes into the run's or the attach's error.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class VMUnreachableError(VMError):
    """Nothing answers, or the connection broke: it may come back."""

    def __init__(self, message: str) -> None:
        super().__init__("ComputeUnreachable", message)


@dataclass(frozen=True)
class Login:
    """How to log in to a virtual machine.

    :param private_key: the text of a private key; when it is empty the password is used.
    :param host_key: ``type base64`` of the machine's key as it was first seen, or ``""`` before that.
    """

    address: str
    port: int
    user: str
    password: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    passphrase: str = field(default="", repr=False)
    host_key: str = ""

    @property
    def place(self) -> str:
        """Return the machine's name for messages."""
        return f"{self.user}@{self.address}:{self.port}"


class _Pinned(paramiko.MissingHostKeyPolicy):
    """Accepts any key the first time and only that one afterwards."""

    def __init__(self, pinned: str) -> None:
        self.pinned = pinned
        self.seen = ""

    def missing_host_key(self, _client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        self.seen = f"{key.get_name()} {key.get_base64()}"
        if self.pinned and self.seen != self.pinned:
            raise VMError(
                "HostKeyChanged",
                f"{hostname} answers with the host key {fingerprint(self.seen)}; when it was attached it was "
                f"{fingerprint(self.pinned)}. Detach and attach it again if the machine was rebuilt.",
            )


class VM:
    """An open connection to a virtual machine.

    :param host_key: the key that it showed.
    """

    def __init__(self, client: paramiko.SSHClient, login: Login, host_key: str) -> None:
        self._client = client
        self._login = login
        self.host_key = host_key

    def run(
        self, command: str, stdin: Iterable[bytes] = (), seconds: float = 60, largest: int = LARGEST_REPLY
    ) -> tuple[int, bytes]:
        """Run a command to its end.

        :param command: for the account's shell.
        :param seconds: how long it may be silent.
        :param largest: bytes of what it prints that are kept.
        :return: its exit status, and what it printed (both streams together).
        :raises VMUnreachableError: when the connection breaks or nothing comes in time.
        """
        with self.started(command, seconds) as channel:
            for part in stdin:
                channel.sendall(part)
            channel.shutdown_write()
            reply = bytearray()
            while part := channel.recv(CHUNK):
                reply += part[: largest - len(reply)]
            return channel.recv_exit_status(), bytes(reply)

    @contextmanager
    def started(self, command: str, seconds: float, *, combined: bool = True) -> Iterator[paramiko.Channel]:
        """Start a command, and end its channel with the block.

        :raises VMUnreachableError: when the connection breaks or is silent for too long inside the block.
        """
        transport = self._client.get_transport()
        try:
            if transport is None:
                raise VMUnreachableError(f"The connection to {self._login.place} is closed.")
            with transport.open_session(timeout=CONNECT_SECONDS) as channel:
                channel.settimeout(seconds)
                channel.set_combine_stderr(combined)
                channel.exec_command(command)
                yield channel
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise VMUnreachableError(
                f"The connection to {self._login.place} broke: {error or type(error).__name__}."
            ) from error


@contextmanager
def logged_in(login: Login) -> Iterator[VM]:
    """Log in for the length of a block.

    :raises VMUnreachableError: when nothing answers there.
    :raises VMError: when the machine is another one than before, or refuses the account.
    """
    client = paramiko.SSHClient()
    pin = _Pinned(login.host_key)
    client.set_missing_host_key_policy(pin)
    try:
        client.connect(
            login.address,
            login.port,
            login.user,
            password=login.password or None,
            pkey=_key(login),
            timeout=CONNECT_SECONDS,
            banner_timeout=CONNECT_SECONDS,
            auth_timeout=CONNECT_SECONDS,
            allow_agent=False,
            look_for_keys=False,
        )
        transport = client.get_transport()
        if transport is not None:
            transport.set_keepalive(5)
        yield VM(client, login, pin.seen)
    except paramiko.AuthenticationException as error:
        raise VMError("AuthenticationFailed", f"{login.place} refused the credentials given at attach.") from error
    except (socket.gaierror, paramiko.SSHException, OSError) as error:
        raise VMUnreachableError(f"{login.place} cannot be reached: {error or type(error).__name__}.") from error
    finally:
        client.close()


def fingerprint(host_key: str) -> str:
    """Return a host key as people compare it."""
    kind, _, text = host_key.partition(" ")
    digest = hashlib.sha256(base64.b64decode(text)).digest()
    return f"{kind} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _key(login: Login) -> paramiko.PKey | None:
    if not login.private_key:
        return None
    for kind in KEY_KINDS:
        try:
            return kind.from_private_key(io.StringIO(login.private_key), login.passphrase or None)
        except paramiko.PasswordRequiredException as error:
            raise VMError(
                "InvalidPrivateKey", "The private key is encrypted and its passphrase was not given."
            ) from error
        except (paramiko.SSHException, ValueError):
            continue
    raise VMError(
        "InvalidPrivateKey",
        "The private key cannot be read: it is no Ed25519, ECDSA or RSA key, or its passphrase is wrong.",
    )
