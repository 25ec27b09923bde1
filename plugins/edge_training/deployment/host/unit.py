"""Keeps a front running: as a unit of the account's systemd where there is one, else under a keeper, a small process with a pid file.

A keeper starts a front that ended again, but nothing starts the keeper after the host was restarted: only systemd does that.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from edge_training.deployment.host import processes
from edge_training.deployment.host.errors import HostError
from edge_training.deployment.host.front import CONTROL_FILE, PORT_TAKEN_STATUS

Supervisor = Literal["systemd", "keeper"]

_START_SECONDS = 20.0
_STOP_SECONDS = 60.0
_ORDER_SECONDS = 120.0
_PID_FILE, _LOG_FILE = "keeper.json", "front.log"
_UNIT = """\
[Unit]
Description=Edge model deployment {name}

[Service]
ExecStart={command}
StandardOutput=append:{log}
StandardError=append:{log}
Restart=on-failure
RestartSec=1
RestartPreventExitStatus={port_taken}
# The front ends what it has started itself, once requests that have begun are answered.
KillMode=mixed
TimeoutStopSec={stop_seconds:.0f}

[Install]
WantedBy=default.target
"""


def order(folder: Path, what: str, **more: Any) -> dict[str, Any]:
    """Tell a front to do something, and return its answer.

    :param folder: the deployment's own.
    :param what: the word for it.
    :param more: what belongs to it.
    :raises HostError: when the front does not run, or could not do it.
    """
    try:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(_ORDER_SECONDS)
            plain.connect(str(folder / CONTROL_FILE))
            plain.sendall(json.dumps({"do": what, **more}).encode() + b"\n")
            with plain.makefile("rb") as stream:
                answer: dict[str, Any] = json.loads(stream.readline() or b"{}")
    except (OSError, ValueError) as error:
        raise HostError(
            "host", f"The front of deployment '{folder.name}' does not answer ({type(error).__name__}).", retryable=True
        ) from error
    if "error" in answer:
        raise HostError("host", f"The front of deployment '{folder.name}' could not {what}: {answer['error']}.")
    return answer


def is_up(folder: Path) -> bool:
    """Tell whether a deployment's front runs.

    :param folder: the deployment's own.
    """
    try:
        order(folder, "status")
    except HostError:
        return False
    return True


def supervisor() -> Supervisor:
    """Return what keeps fronts running on this host."""
    if shutil.which("systemctl") and os.environ.get("XDG_RUNTIME_DIR"):
        asked = subprocess.run(
            ["systemctl", "--user", "is-system-running"], capture_output=True, text=True, check=False
        )
        if asked.stdout.strip() in {"running", "degraded", "starting"}:
            return "systemd"
    return "keeper"


def start(folder: Path, program: Path) -> Supervisor:
    """Start a deployment's front, unless it runs.

    :param folder: the deployment's own, with its state.
    :param program: this packed program, where it stays.
    :raises HostError: when its port is taken, or it does not start.
    """
    kind = supervisor()
    if is_up(folder):
        return kind
    log = folder / _LOG_FILE
    offset = log.stat().st_size if log.exists() else 0
    if kind == "systemd":
        _start_unit(folder, program)
        keeper = None
    else:
        stop(folder)
        keeper = _start_keeper(folder, program)
    deadline = time.monotonic() + _START_SECONDS
    while not is_up(folder):
        status = keeper.poll() if keeper is not None else _unit_failure(folder)
        if status is not None or time.monotonic() > deadline:
            stop(folder)
            told = log.read_bytes()[offset:].decode("utf-8", "replace").strip()[-500:] if log.exists() else ""
            raise HostError(
                "port" if status == PORT_TAKEN_STATUS else "host",
                f"The front of deployment '{folder.name}' does not start: {told or 'it says nothing'}",
            )
        time.sleep(0.02)
    return kind


def stop(folder: Path) -> bool:
    """End a deployment's front and what runs behind it, and tell whether it ran.

    :param folder: the deployment's own.
    """
    pid = _keeper_pid(folder)
    was_up = pid is not None or is_up(folder)
    if supervisor() == "systemd":
        subprocess.run(
            ["systemctl", "--user", "disable", "--now", _unit_name(folder)], capture_output=True, check=False
        )
    if pid is not None:
        members = {member: processes.started(member) for member in processes.family(pid)}
        for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 5.0)):
            alive = [
                member for member, begin in members.items() if begin is not None and processes.started(member) == begin
            ]
            # The keeper ends its front, and the front its images; only what does not go is killed one by one.
            for member in alive if number == signal.SIGKILL else [pid]:
                with suppress(ProcessLookupError):
                    os.kill(member, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and any(
                begin is not None and processes.started(one) == begin for one, begin in members.items()
            ):
                time.sleep(0.02)
    (folder / _PID_FILE).unlink(missing_ok=True)
    return was_up


def keep(folder: str) -> None:
    """Run a front, and run it again when it ends without being told to: what a keeper is.

    :param folder: the deployment's own.
    """
    told: list[int] = []
    front: subprocess.Popen[bytes] | None = None

    def end(number: int, _frame: object) -> None:
        told.append(number)
        if front is not None:
            front.terminate()

    signal.signal(signal.SIGTERM, end)
    pause = 0.5
    while not told:
        begin = time.monotonic()
        front = subprocess.Popen([sys.executable, "-I", sys.argv[0], "front", folder], stdin=subprocess.DEVNULL)
        status = front.wait()
        if told or status in {0, PORT_TAKEN_STATUS}:
            sys.exit(status)
        print(f"The front ended with exit status {status}; it is started again.", flush=True)
        pause = 0.5 if time.monotonic() - begin > 30 else min(pause * 2, 30.0)
        time.sleep(pause)


def _start_keeper(folder: Path, program: Path) -> subprocess.Popen[bytes]:
    with (folder / _LOG_FILE).open("ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-I", str(program), "keep", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    note = {"pid": keeper.pid, "started": processes.started(keeper.pid)}
    (folder / _PID_FILE).write_text(json.dumps(note))
    return keeper


def _keeper_pid(folder: Path) -> int | None:
    try:
        note = json.loads((folder / _PID_FILE).read_text())
        pid, begin = int(note["pid"]), note["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if begin is not None and processes.started(pid) == begin else None


def _start_unit(folder: Path, program: Path) -> None:
    units = Path.home() / ".config/systemd/user"
    units.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, "-I", str(program), "front", str(folder)])
    fields = {"command": command, "log": str(folder / _LOG_FILE)}
    text = _UNIT.format(
        name=folder.name,
        port_taken=PORT_TAKEN_STATUS,
        stop_seconds=_STOP_SECONDS,
        # What stands behind a per cent sign would be a specifier.
        **{name: value.replace("%", "%%") for name, value in fields.items()},
    )
    (units / _unit_name(folder)).write_text(text)
    # Lingering lets the account's units run while nobody is logged in; where it is not permitted, an administrator has to switch it on.
    subprocess.run(["loginctl", "enable-linger"], capture_output=True, check=False)
    for action in (["daemon-reload"], ["enable", _unit_name(folder)], ["restart", _unit_name(folder)]):
        done = subprocess.run(["systemctl", "--user", *action], capture_output=True, text=True, check=False)
        if done.returncode:
            raise HostError("host", f"systemd refuses to {action[0]}: {done.stderr.strip()[-300:]}")


def _unit_failure(folder: Path) -> int | None:
    """Return the exit status of a front that its unit does not start again, or ``None`` while it may still come."""
    asked = subprocess.run(
        ["systemctl", "--user", "show", "--property", "ActiveState,ExecMainStatus", _unit_name(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    told = dict(line.partition("=")[::2] for line in asked.stdout.splitlines())
    return int(told.get("ExecMainStatus") or 1) if told.get("ActiveState") == "failed" else None


def _unit_name(folder: Path) -> str:
    return f"edge-serving-{folder.name}.service"
