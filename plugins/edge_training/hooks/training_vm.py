"""The training VM over SSH.

On paramiko itself and not on the SSH provider's hook: that one checks no host key unless told to, asks for another type of key than the
one that is pinned (so that a pinned RSA key always fails), and leaves a command that timed out running.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import shlex
import socket
import time
import uuid
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Self

import paramiko
from airflow.sdk import BaseHook

from edge_training.exceptions import ComputeError, ConfigurationError
from edge_training.hooks.connections import ConnectionSettings, read_connection
from edge_training.hooks.ssh_channel import CommandResult, reason_of, talk
from edge_training.hooks.ssh_keys import PinnedHostKey, all_algorithms, fingerprint_of, load_private_key, parse_host_key
from edge_training.hooks.vm_scripts import MEASURE, REACH_ADVICE, reach_script
from edge_training.vm_checks import VMMeasurement, parse_measurement, password_weaknesses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

_ENDED_STATUSES = {124, 137}  # of coreutils' timeout, when it had to end the command, or to kill it
_KILL_AFTER_SECONDS = 5
_GRACE_SECONDS = 10

# Whatever goes wrong is raised as one of our errors; paramiko's thread would log its traceback as well.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class TrainingVMHook(BaseHook):
    """Logs in to the training VM, with a pinned host key, and runs commands there.

    The connection (type ``ssh``): host, port (22), login; extra ``host_key`` is required, ``ssh-ed25519 AAAA...`` or ``SHA256:...``;
    the credential is extra ``key_file`` (a path), extra ``private_key`` (its text), either with ``private_key_passphrase``, or a
    password that is strong enough. Use it as a context manager: it logs in when first asked and logs out at the end.

    :param conn_id: the Airflow connection's id.
    :raises ConfigurationError: by every method, when the connection is wrong.
    :raises ComputeError: by every method that asks the VM, when it cannot be reached, is another machine or refuses the login.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "training_vm"
    conn_type = "ssh"
    hook_name = "Training VM"
    extras = frozenset({"host_key", "key_file", "private_key", "private_key_passphrase"})

    CONNECT_SECONDS = 10
    LOGIN_SECONDS = 20
    KEEPALIVE_SECONDS = 15

    def __init__(self, conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.conn_id = conn_id
        self._transport: paramiko.Transport | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def connection(self) -> ConnectionSettings:
        """Return the checked connection."""
        return read_connection(self.conn_id, {self.conn_type}, self.extras, required=("host", "login", "host_key"))

    @property
    def host(self) -> str:
        """Return the host name or address that the connection names."""
        return self.connection.host

    @property
    def port(self) -> int:
        """Return the SSH port."""
        return self.connection.port or 22

    @property
    def user(self) -> str:
        """Return the training account's name."""
        return self.connection.login

    @property
    def host_key(self) -> PinnedHostKey:
        """Return the pinned host key."""
        return parse_host_key(self.connection.text("host_key"), self.conn_id)

    @property
    def password(self) -> str:
        """Return the account's password, or ``""`` when a key is used; a weak one is refused."""
        password = self.connection.password
        if password and (weaknesses := password_weaknesses(self.user, password)):
            raise ConfigurationError(
                f"The password of connection '{self.conn_id}' is too weak for an account that is reachable over SSH: "
                f"{'; '.join(weaknesses)}. Choose a stronger one, or better a key."
            )
        return password

    @property
    def passphrase(self) -> str:
        """Return the private key's passphrase, or ``""``."""
        return self.connection.text("private_key_passphrase")

    @cached_property
    def private_key(self) -> paramiko.PKey | None:
        """Return the private key, or ``None`` when a password is used."""
        key = load_private_key(self.connection)
        if (key is None) == (not self.password):
            raise ConfigurationError(
                f"Connection '{self.conn_id}' must have exactly one of password, extra key_file and extra private_key."
            )
        return key

    @contextmanager
    def private_key_file(self) -> Iterator[str | None]:
        """Give the private key as a file for as long as the block lasts, or ``None`` when a password is used.

        A key that is in the connection is never on a disk: its file is in this process' memory, has a name in it alone, and is gone when it
        is killed.
        """
        text = self.connection.text("private_key")
        if not text:
            yield self.connection.text("key_file") or None
            return
        with os.fdopen(os.memfd_create("training-vm-key"), "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text + "\n")
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"

    def close(self) -> None:
        """Log out; a hook that is not logged in stays so."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def run(
        self, command: str, stdin: bytes | Iterable[bytes] | None = None, timeout_seconds: float = 60.0
    ) -> CommandResult:
        """Run a command in the account's POSIX shell and wait for its end.

        :param command: the command, for ``sh -c``.
        :param stdin: what it reads, at once or piece by piece; nothing when ``None``.
        :param timeout_seconds: after this it is ended on the VM too, with everything that it started in its process group.
        :raises ComputeError: when it is not over in time, the connection breaks, or it prints more than 4 MiB.
        """
        # The shell around it turns the end by a signal into an exit status, which paramiko would not see.
        limited = (
            f"timeout --kill-after={_KILL_AFTER_SECONDS} {timeout_seconds:g} sh -c {shlex.quote(command)}; exit $?"
        )
        begin = time.monotonic()
        try:
            channel = self._login().open_session(timeout=self.LOGIN_SECONDS)
            with channel:
                channel.settimeout(timeout_seconds + _GRACE_SECONDS)
                channel.exec_command(limited)
                result = talk(channel, stdin or b"", begin + self.LOGIN_SECONDS + timeout_seconds + _GRACE_SECONDS)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._failure(f"lost the connection while a command ran ({reason_of(error)})") from None
        if result.status in _ENDED_STATUSES and time.monotonic() - begin >= timeout_seconds:
            raise self._failure(f"did not finish a command within {timeout_seconds:g} s; it was ended there")
        return result

    def home(self) -> str:
        """Return the account's home directory; asked of its shell, since SFTP starts elsewhere on some servers."""
        home = self.output('printf %s "$HOME"', "tell the account's home directory").strip()
        if not posixpath.isabs(home):
            raise self._failure(f"gives user '{self.user}' no home directory (HOME is '{home}')")
        return home

    def put_file(self, content: bytes, path: str, mode: int = 0o600) -> None:
        """Write a file, whole or not at all; its folder is made when missing, and is readable by the account alone.

        :param content: the file's bytes.
        :param path: absolute path on the VM.
        :param mode: the file's permissions.
        :raises ComputeError: when it cannot be written, such as when the disk is full.
        """
        if not posixpath.isabs(path):
            raise ConfigurationError(f"A file on the training VM needs an absolute path, found '{path}'.")
        folder, name = posixpath.split(path)
        target = shlex.quote(path)
        temporary = shlex.quote(f"{folder}/.{name}.{uuid.uuid4().hex}.tmp")
        # The count tells a whole file from one that a broken connection cut short.
        command = (
            f"umask 077 && mkdir -p {shlex.quote(folder)} && chmod 700 {shlex.quote(folder)} && {{ "
            f"cat >{temporary} && test $(wc -c <{temporary}) -eq {len(content)} && chmod {mode:o} {temporary} && "
            f"mv -f {temporary} {target} || {{ rm -f {temporary}; false; }}; }}"
        )
        self.output(command, f"write '{path}'", stdin=content)

    def remove(self, path: str) -> bool:
        """Remove a file, and tell whether it was there.

        :param path: absolute path on the VM.
        """
        target = shlex.quote(path)
        return (
            self.output(f"if [ -e {target} ]; then rm -f {target} && echo removed; fi", f"remove '{path}'").strip()
            != ""
        )

    def measure(self, python: str, work_dir: str = "~") -> VMMeasurement:
        """Measure the VM.

        :param python: the interpreter that training uses; may begin with ``~/``.
        :param work_dir: the folder that runs work in, or that would be made.
        """
        before = time.time()
        command = f"sh -s -- {shlex.quote(python)} {shlex.quote(work_dir)}"
        output = self.output(command, "be measured", stdin=MEASURE.encode())
        return parse_measurement(output, before, time.time())

    def reach(self, url: str, ca_pem: str = "", python: str = "python3", timeout_seconds: float = 10.0) -> int:
        """Ask for an address from the VM, and return the HTTP status; any status means that it is reachable.

        :param url: an address over https.
        :param ca_pem: certificates to trust, or ``""`` for the VM's own.
        :param python: an interpreter on the VM.
        :param timeout_seconds: how long to wait for an answer.
        :raises ComputeError: when it is not reachable from there; DNS, refused and untrusted are told apart.
        """
        script = reach_script(url, ca_pem, timeout_seconds)
        output = self.output(f"{shlex.quote(python)} -", f"ask for {url}", stdin=script)
        found = json.loads(output.strip().splitlines()[-1])
        if found["outcome"] != "reached":
            advice = REACH_ADVICE[found["outcome"]].format(detail=found["detail"])
            raise self._failure(f"cannot reach {url}: {advice}")
        return int(found["detail"])

    def output(self, command: str, what: str, stdin: bytes | None = None) -> str:
        """Run a command that must succeed, and return what it printed.

        :param command: the command, for ``sh -c``.
        :param what: what it does, for the message: "could not <what>".
        :param stdin: what it reads.
        :raises ComputeError: when its exit status is not 0.
        """
        result = self.run(command, stdin=stdin)
        if result.status:
            why = result.stderr.strip() or f"exit status {result.status}"
            raise self._failure(f"could not {what}: {why[-500:]}")
        return result.stdout

    def _failure(self, happened: str) -> ComputeError:
        return ComputeError(
            f"Training VM {self.user}@{self.host}:{self.port} (connection '{self.conn_id}') {happened}."
        )

    def _login(self) -> paramiko.Transport:
        if self._transport is None or not self._transport.is_active():
            self.close()
            key = self.private_key
            transport = self._checked_machine()
            self._transport = transport
            self._authenticate(transport, key)
            transport.set_keepalive(self.KEEPALIVE_SECONDS)
        return self._transport

    def _checked_machine(self) -> paramiko.Transport:
        """Return an encrypted connection to the machine that shows the pinned key; no credential was sent yet."""
        pinned, found = self.host_key, ""
        for algorithms in (*pinned.algorithms, all_algorithms()):
            transport = self._open(algorithms)
            if transport is None:
                continue
            found = fingerprint_of(transport.get_remote_server_key().asbytes())
            if found == pinned.fingerprint:
                return transport
            transport.close()
        raise self._failure(
            f"shows host key {found or 'of no accepted type'}, pinned is {pinned.fingerprint}: it may be another machine, so nothing was "
            "sent. If the VM was reinstalled, compare `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on its console and then "
            f"change extra host_key of connection '{self.conn_id}'"
        )

    def _open(self, algorithms: Sequence[str]) -> paramiko.Transport | None:
        """Connect and agree on keys; ``None`` when the server has no host key for these algorithms."""
        try:
            plain = socket.create_connection((self.host, self.port), timeout=self.CONNECT_SECONDS)
        except OSError as error:
            raise self._failure(f"cannot be reached: {reason_of(error)}") from None
        transport = paramiko.Transport(plain)
        try:
            transport.banner_timeout = self.CONNECT_SECONDS
            transport.auth_timeout = self.LOGIN_SECONDS
            transport.get_security_options().key_types = algorithms
            transport.start_client(timeout=self.LOGIN_SECONDS)
            # Fails when the time was over before keys were agreed on, which paramiko passes over in silence.
            transport.get_remote_server_key()
        except paramiko.ssh_exception.IncompatiblePeer:
            transport.close()
            return None
        except (paramiko.SSHException, OSError, EOFError) as error:
            transport.close()
            raise self._failure(f"did not answer as an SSH server: {reason_of(error)}; is this sshd's port?") from None
        return transport

    def _authenticate(self, transport: paramiko.Transport, key: paramiko.PKey | None) -> None:
        try:
            if key is not None:
                transport.auth_publickey(self.user, key)
            else:
                transport.auth_password(self.user, self.password)
        except (paramiko.SSHException, OSError, EOFError) as error:
            self.close()
            credential = "key" if key is not None else "password"
            raise self._failure(
                f"refused the {credential} of user '{self.user}' ({reason_of(error)}): check login and {credential} of the "
                "connection, and on the VM that the account exists and accepts them (~/.ssh/authorized_keys)"
            ) from None
