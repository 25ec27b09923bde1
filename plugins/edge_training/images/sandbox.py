"""Starts a pulled image in a sandbox and asks it one thing, without a container engine.

bubblewrap gives it a root of its own (read-only), its own loopback and nothing else of the network, its own processes and
an empty environment. Where bubblewrap is missing or not permitted, root can use a plain change of root instead, which keeps the image
from this machine's files but not from its network; the answer says which one it was.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import json
import os
import shutil
import signal
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_training.exceptions import ImageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_training.images.pull import PulledImage

Isolation = Literal["bubblewrap", "chroot"]

_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_DEFAULT_USER = 65532
# Beyond the request's own time: for the probe to end the server and to tell.
_GRACE_SECONDS = 15
_DEVICES = {"null": (1, 3), "zero": (1, 5), "random": (1, 8), "urandom": (1, 9)}


@dataclass(frozen=True)
class ProbeAnswer:
    """What a started image answered.

    :param status: HTTP status.
    :param body: the answer's bytes.
    :param start_seconds: from the start of its program until it was healthy.
    :param request_seconds: from the request to the whole answer.
    :param isolation: what it ran in.
    :param log: the end of what its program printed.
    """

    status: int
    body: bytes
    start_seconds: float
    request_seconds: float
    isolation: Isolation
    log: str


def answer(
    pulled: PulledImage,
    request: bytes,
    timeout_seconds: float = 60.0,
    *,
    path: str = "/score",
    health_path: str = "/",
    isolation: Isolation | None = None,
) -> ProbeAnswer:
    """Start an image, wait until it is healthy, send it one request, and end it.

    :param pulled: the image.
    :param request: the body of the request, JSON.
    :param timeout_seconds: for starting and answering together.
    :param path: where the request is posted to.
    :param health_path: where its health is asked for.
    :param isolation: what to run it in; ``None`` takes the best that works here.
    :raises ImageError: when it cannot be started, does not become healthy, or does not answer, with the end of its log.
    """
    kind = isolation or best_isolation()
    order = {
        "command": [*(pulled.run.get("Entrypoint") or []), *(pulled.run.get("Cmd") or [])],
        "port": _port(pulled),
        "path": path,
        "health_path": health_path,
        "body": base64.b64encode(request).decode(),
        "seconds": timeout_seconds,
    }
    if not order["command"]:
        raise ImageError(f"Image {pulled.reference} says nothing about what to run (no Entrypoint, no Cmd).")
    wrap = _in_bubblewrap if kind == "bubblewrap" else _in_chroot
    told, errors = _run(wrap(pulled), json.dumps(order), timeout_seconds + _GRACE_SECONDS)
    return _read(pulled.reference, kind, told, errors)


@functools.cache
def best_isolation() -> Isolation:
    """Return what images can be run in here.

    :raises ImageError: when neither way is open, with what to do.
    """
    if shutil.which("bwrap"):
        trial = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--proc", "/proc", "--dev", "/dev", "true"]
        if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
            return "bubblewrap"
    if os.geteuid() == 0:
        return "chroot"
    raise ImageError(
        "An image can only be tried out in a sandbox, and none can be made here: install bubblewrap (apt-get install "
        "bubblewrap), permit unprivileged user namespaces, or run this as root."
    )


def _in_bubblewrap(pulled: PulledImage) -> list[str]:
    user, group = _user(pulled.run)
    command = ["bwrap", "--ro-bind", str(pulled.root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own /tmp
    command += ["--unshare-all", "--unshare-user", "--uid", str(user), "--gid", str(group), "--cap-drop", "ALL"]
    command += ["--die-with-parent", "--new-session", "--clearenv", "--chdir", _working_directory(pulled)]
    for name, value in _environment(pulled.run).items():
        command += ["--setenv", name, value]
    return [*command, "--", "python3", "-I", "-c", _probe_source()]


def _in_chroot(pulled: PulledImage) -> list[str]:
    user, group = _user(pulled.run)
    _make_devices(pulled.root / "dev")
    (pulled.root / "tmp").mkdir(exist_ok=True)
    (pulled.root / "tmp").chmod(0o1777)
    environment = [f"{name}={value}" for name, value in _environment(pulled.run).items()]
    change_root = shutil.which("chroot", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "chroot"
    command = [change_root, f"--userspec={user}:{group}", "--groups=", str(pulled.root), "/usr/bin/env", "-i"]
    return [*command, f"--chdir={_working_directory(pulled)}", *environment, "python3", "-I", "-c", _probe_source()]


def _make_devices(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, (major, minor) in _DEVICES.items():
        path = folder / name
        if not path.exists():
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            path.chmod(0o666)


def _run(command: list[str], order: str, seconds: float) -> tuple[str, str]:
    """Run the probe and everything under it; nothing of it is left when this returns."""
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            return process.communicate(order, timeout=seconds)
        except subprocess.TimeoutExpired:
            return "", f"nothing came back within {seconds:g} s"
        finally:
            _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """End the probe, which ends the image's program; bubblewrap takes all of it along by itself."""
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def _read(reference: str, kind: Isolation, told: str, errors: str) -> ProbeAnswer:
    try:
        value = json.loads(told.splitlines()[-1])
        if "error" not in value:
            body = base64.b64decode(value["body"])
            return ProbeAnswer(
                value["status"], body, value["start_seconds"], value["request_seconds"], kind, value["log"]
            )
        reason, log = str(value["error"]), str(value["log"])
    except (ValueError, LookupError, TypeError, binascii.Error):
        reason, log = "the sandbox ended without an answer: does the image have python3 on its PATH?", errors[-2000:]
    raise ImageError(
        f"Image {reference} did not work in {kind}: {reason}. The end of its log:\n{log.strip() or '(empty)'}"
    )


def _port(pulled: PulledImage) -> int:
    ports = [name.partition("/")[0] for name in pulled.run.get("ExposedPorts") or {}]
    if len(ports) != 1 or not ports[0].isdecimal():
        raise ImageError(
            f"Image {pulled.reference} exposes {', '.join(ports) or 'no port'}, expected exactly one port."
        )
    return int(ports[0])


def _user(run: Mapping[str, Any]) -> tuple[int, int]:
    """Return the image's user and group, another number where it says root or a name."""
    user, _, group = str(run.get("User") or "").partition(":")
    number = int(user) if user.isdecimal() and int(user) > 0 else _DEFAULT_USER
    return number, int(group) if group.isdecimal() and int(group) > 0 else number


def _working_directory(pulled: PulledImage) -> str:
    folder = str(pulled.run.get("WorkingDir") or "/")
    return folder if folder.startswith("/") else "/"


def _environment(run: Mapping[str, Any]) -> dict[str, str]:
    image = dict(entry.partition("=")[::2] for entry in run.get("Env") or [])
    return {"PATH": _DEFAULT_PATH, **image}


@functools.cache
def _probe_source() -> str:
    return (Path(__file__).parent / "probe.py").read_text()
