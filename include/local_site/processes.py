"""Supervised background processes: the one place where this project starts, finds and ends them.

A process belongs to us when its id *and* its start time are the recorded ones, so that a process that was given the id
of a dead one is never ended. Everything a service has started is ended with it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from local_site import files, process_table
from local_site.errors import BusyPortError, LocalSiteError, MissingToolError, ServiceStartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from local_site.process_table import Process

__all__ = [
    "BusyPortError",
    "LocalSiteError",
    "Service",
    "ServiceStartError",
    "check_port_is_free",
    "listening",
    "running",
    "running_as_defined",
    "start",
    "stop",
    "wait_ready",
]

_POLL_SECONDS = 0.05
_RECORD_SECONDS = 0.002

# Every service begins as this shell, which writes its own record and then becomes the program. So nothing ever runs
# without a record, even when the program that starts it is killed in between. $1: the record, $2: what it says besides.
_LAUNCHER = """
read -r stat <"/proc/$$/stat"
position=0
for field in ${stat##*) }; do
    position=$((position + 1))
    if [ "$position" = 20 ]; then started=$field; fi
done
printf '{"pid": %s, "started": %s, %s' "$$" "$started" "$2" >"$1.new" && mv "$1.new" "$1" || exit 1
shift 2
exec "$@"
"""

# Processes that this very program started: they have to be waited for, or they stay as zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


class _Detached(subprocess.Popen[bytes]):
    """A process that outlives its handle on purpose: it is found again by its record, so Python need not warn that it still runs."""

    def __del__(self) -> None:
        self.poll()


@dataclass(frozen=True)
class Service:
    """A program that runs in the background.

    :param name: Short name; also the name of its record.
    :param argv: The command.
    :param env: Variables added to those of the caller; a variable with the value None is taken away.
    :param cwd: Its working directory.
    :param log: The file its output is appended to.
    :param ready: Answers whether the service does its work by now; it may raise OSError for "not yet".
    :param port: The TCP port it listens on at 127.0.0.1, if it does.
    :param port_setting: The environment setting that chooses the port.
    :param start_timeout: How long it may take to become ready, in seconds.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str | None]
    cwd: Path
    log: Path
    ready: Callable[[], bool] = field(compare=False)
    port: int | None = None
    port_setting: str = ""
    start_timeout: float = 30.0

    def digest(self) -> str:
        """Return a hash of what would be started, to notice that a running process is another one."""
        definition = [self.argv, sorted(self.env.items()), str(self.cwd), self.port]
        return hashlib.sha256(json.dumps(definition).encode()).hexdigest()


def check_port_is_free(name: str, port: int, setting: str) -> None:
    """Make sure that a service can listen on its port.

    :param name: The service.
    :param port: The TCP port on 127.0.0.1.
    :param setting: The environment setting that chooses the port.
    :raises BusyPortError: Another program listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LocalSiteError(
                    f"{name} cannot listen on port {port} of 127.0.0.1 ({error.strerror}). "
                    f"Choose another port with {setting}."
                ) from error
            raise BusyPortError(name, port, setting) from error


def listening(port: int) -> bool:
    """Say whether anything accepts connections on a port of 127.0.0.1.

    :param port: The TCP port.
    """
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start(service: Service, pids_dir: Path) -> bool:
    """Start a service in a session of its own, unless it runs already.

    :param service: What to start.
    :param pids_dir: Where the records of what runs are kept.
    :return: True when it was started by this call.
    :raises BusyPortError: Its port is used by another program.
    :raises MissingToolError: Its program does not exist.
    """
    if running(service.name, pids_dir) is not None:
        return False
    if service.port is not None:
        check_port_is_free(service.name, service.port, service.port_setting)
    pids_dir.mkdir(parents=True, exist_ok=True)
    service.log.parent.mkdir(parents=True, exist_ok=True)
    record = pids_dir / f"{service.name}.json"
    record.unlink(missing_ok=True)
    with service.log.open("ab") as log:
        process = _spawn(service, record, log)
    _children[process.pid] = process
    while not record.exists() and process.poll() is None:
        time.sleep(_RECORD_SECONDS)
    return True


def wait_ready(service: Service, pids_dir: Path) -> None:
    """Wait until a started service does its work.

    :param service: The service.
    :param pids_dir: Where the records of what runs are kept.
    :raises ServiceStartError: It ended, or was not ready within `service.start_timeout` seconds.
    """
    deadline = time.monotonic() + service.start_timeout
    while True:
        with suppress(OSError):
            if service.ready():
                return
        reason = None
        if running(service.name, pids_dir) is None:
            reason = "ended while it was being started"
        elif time.monotonic() > deadline:
            reason = f"did not become ready within {service.start_timeout:g} seconds"
        if reason is not None:
            offset = (_read_record(service.name, pids_dir) or {}).get("log_offset", 0)
            raise ServiceStartError(service.name, reason, service.log, files.tail(service.log, offset))
        time.sleep(_POLL_SECONDS)


def running(name: str, pids_dir: Path) -> int | None:
    """Return the process id of a service that runs, or None.

    :param name: The service.
    :param pids_dir: Where the records of what runs are kept.
    """
    record = _read_record(name, pids_dir)
    if record is None or record.get("boot") != _boot_id():
        return None
    _reap(record["pid"])
    process = process_table.find(record["pid"])
    if process is None or not process.alive or process.started != record["started"]:
        return None
    return process.pid


def running_as_defined(service: Service, pids_dir: Path) -> bool:
    """Say whether a service runs, and with the command and port that it would be started with now.

    :param service: The service.
    :param pids_dir: Where the records of what runs are kept.
    """
    record = _read_record(service.name, pids_dir)
    return running(service.name, pids_dir) is not None and record is not None and record["digest"] == service.digest()


def stop(name: str, pids_dir: Path, grace: float = 10.0) -> bool:
    """End a service and everything it has started: SIGTERM, and SIGKILL for what is left.

    :param name: The service.
    :param pids_dir: Where the records of what runs are kept.
    :param grace: How long it may take to end by itself, in seconds.
    :return: True when it was running.
    """
    pid = running(name, pids_dir)
    if pid is not None:
        family = process_table.family(pid)
        _signal_all(family, signal.SIGTERM)
        if not _gone(family, grace):
            family |= process_table.family(pid)
            _signal_all(family, signal.SIGKILL)
            _gone(family, grace)
        _children.pop(pid, None)
    (pids_dir / f"{name}.json").unlink(missing_ok=True)
    return pid is not None


def _spawn(service: Service, record: Path, log: IO[bytes]) -> _Detached:
    env = dict(os.environ)
    for name, value in service.env.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    if shutil.which(service.argv[0], path=env.get("PATH")) is None:
        raise MissingToolError(
            f"{service.name} cannot be started, because {service.argv[0]} does not exist. "
            "Install what the local site needs with: bin/setup"
        )
    facts = {"boot": _boot_id(), "port": service.port, "digest": service.digest(), "log_offset": log.tell()}
    launcher = ["/bin/sh", "-c", _LAUNCHER, service.name, str(record), json.dumps(facts).removeprefix("{")]
    return _Detached(
        [*launcher, *service.argv],
        env=env,
        cwd=service.cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _read_record(name: str, pids_dir: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((pids_dir / f"{name}.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None


def _boot_id() -> str:
    # Start times count from the machine's start, so a record of an earlier start could match by chance.
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _gone(family: set[Process], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        for member in family:
            _reap(member.pid)
        if not process_table.alive(family):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)


def _reap(pid: int) -> None:
    if (child := _children.get(pid)) is not None:
        child.poll()


def _signal_all(family: set[Process], number: signal.Signals) -> None:
    for member in process_table.alive(family):
        with suppress(ProcessLookupError):
            os.kill(member.pid, number)
