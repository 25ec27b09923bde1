"""How an image's program is started on a host: in a sandbox with no network, a read-only root and nothing of the host's environment.

bubblewrap; where none works, podman; where that is missing too, runc, the runtime that docker brings along (see :mod:`.runc`). All show
the same to the program, but for its user, which is number 0 without capabilities in runc. bubblewrap comes first because it needs no
settings of an engine and no ranges of user ids, and starts in milliseconds.

Whoever starts a sandbox keeps its standard input open for as long as it shall run: what runs in it ends when that is closed, also when its
starter was killed. Containers of podman and runc would outlive the program that started them.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_training.deployment.host import runc
from edge_training.deployment.host.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

Isolation = Literal["bubblewrap", "podman", "runc"]

SOCKET_NAME = "s"
# Where a program sees the folder that was made for its run, the only one of the host's that it can write to.
INSIDE = "/tmp/.edge-serving"  # noqa: S108 - the sandbox's own /tmp
_PID_FILE = "pid"
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_DEFAULT_USER = 65532
# What the kernel takes as the address of a socket file.
_LONGEST_SOCKET = 107
_TRIAL_SECONDS = 20
_SECONDS_TO_END = 15.0


def port_of(run: Mapping[str, Any]) -> int:
    """Return the one port that an image exposes.

    :param run: what its configuration says about running it.
    :raises HostError: when it exposes none, or several.
    """
    ports = [name.partition("/")[0] for name in run.get("ExposedPorts") or {}]
    if len(ports) != 1 or not ports[0].isdecimal():
        raise HostError("image", f"The image exposes {', '.join(ports) or 'no port'}, expected exactly one port.")
    return int(ports[0])


def command_of(run: Mapping[str, Any]) -> list[str]:
    """Return an image's command line.

    :param run: what its configuration says about running it.
    :raises HostError: when it says nothing.
    """
    command = [*(run.get("Entrypoint") or []), *(run.get("Cmd") or [])]
    if not command:
        raise HostError("image", "The image says nothing about what to run (no Entrypoint, no Cmd).")
    return command


@functools.cache
def best_isolation() -> Isolation:
    """Return what images can be run in on this host.

    :raises HostError: when there is nothing, with what to install.
    """
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # podman looks for the root as a user who is neither the account nor root.
        place.chmod(0o755)
        root = _with_host_programs(place / "root")
        podman = [*_podman_run(_DEFAULT_USER, _DEFAULT_USER), "--volume", "/usr:/usr:ro", *_rootfs(root)]
        trials: dict[Isolation, list[str]] = {
            "bubblewrap": ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--proc", "/proc", "--dev", "/dev", "true"],
            "podman": [*podman, "/usr/bin/true"],
            "runc": runc.command(
                place,
                root,
                ["/usr/bin/true"],
                environment={},
                binds={"/usr": ("/usr", "ro")},
                pid_file=place / _PID_FILE,
            ),
        }
        for name, trial in trials.items():
            if shutil.which(trial[0]) is None:
                failures.append(f"{trial[0]} is not installed")
                continue
            done = subprocess.run(
                trial, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TRIAL_SECONDS, check=False
            )
            if done.returncode == 0:
                return name
            failures.append(f"{trial[0]} does not work ({done.stderr.strip()[-300:]})")
    raise HostError(
        "sandbox",
        f"The host can make no sandbox for an image: {'; '.join(failures)}. Install bubblewrap there (apt-get install bubblewrap), "
        "and permit unprivileged user namespaces.",
    )


def command_line(kind: Isolation, root: Path, run: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the command that starts an image's program behind a socket file.

    :param kind: what to run it in.
    :param root: the image's files.
    :param run: what its configuration says about running it.
    :param folder: gets the socket file, named ``s``, and what else the sandbox needs; exists.
    :raises HostError: when the folder's path is too long for a socket file.
    """
    if len(str(folder / SOCKET_NAME)) > _LONGEST_SOCKET:
        raise HostError(
            "host", f"The path '{folder}' is too long for a socket file: choose a shorter name for the deployment."
        )
    order = {"command": command_of(run), "port": port_of(run), "socket": f"{INSIDE}/{SOCKET_NAME}"}
    return _sandbox(kind, root, run, folder, ["python3", "-I", "-c", _relay_source(), json.dumps(order)])


def once(kind: Isolation, root: Path, run: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the command that runs an image's command by itself: one that ends, and that nobody asks anything.

    :param kind: what to run it in.
    :param root: the image's files.
    :param run: what its configuration says about running it.
    :param folder: what it can write to, as :data:`INSIDE`; exists.
    """
    return _sandbox(kind, root, run, folder, command_of(run))


def _sandbox(kind: Isolation, root: Path, run: Mapping[str, Any], folder: Path, inner: list[str]) -> list[str]:
    if kind == "runc":
        return _runc(root, run, folder, inner)
    return [*(_bubblewrap if kind == "bubblewrap" else _podman)(root, run, folder), *inner]


def _bubblewrap(root: Path, run: Mapping[str, Any], folder: Path) -> list[str]:
    user, group = _user(run)
    command = ["bwrap", "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own /tmp
    command += ["--bind", str(folder), INSIDE]
    command += ["--unshare-all", "--unshare-user", "--uid", str(user), "--gid", str(group), "--cap-drop", "ALL"]
    command += ["--die-with-parent", "--new-session", "--clearenv", "--chdir", _working_directory(run)]
    for name, value in _environment(run).items():
        command += ["--setenv", name, value]
    return [*command, "--"]


def _podman(root: Path, run: Mapping[str, Any], folder: Path) -> list[str]:
    command = [*_podman_run(*_user(run)), "--pidfile", str(folder / _PID_FILE)]
    command += ["--volume", f"{folder}:{INSIDE}", "--workdir", _working_directory(run)]
    for name, value in _environment(run).items():
        command += ["--env", f"{name}={value}"]
    return [*command, *_rootfs(root)]


def _runc(root: Path, run: Mapping[str, Any], folder: Path, inner: list[str]) -> list[str]:
    return runc.command(
        folder,
        root,
        inner,
        environment=_environment(run),
        working_directory=_working_directory(run),
        binds={INSIDE: (str(folder), "rw")},
        pid_file=folder / _PID_FILE,
    )


def _rootfs(root: Path) -> list[str]:
    # Below an overlay, for podman makes files that it needs, such as /etc/hostname, and the image's own are to stay as they are.
    return ["--rootfs", f"{root}:O"]


def _with_host_programs(root: Path) -> Path:
    """Make a root in which an engine can be tried before there is an image; the host's /usr is yet to be mounted in it."""
    root.mkdir()
    root.chmod(0o755)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    return root


def _podman_run(user: int, group: int) -> list[str]:
    command = ["podman", "run", "--rm", "--interactive", "--log-driver", "none", "--network", "none", "--read-only"]
    command += ["--cap-drop", "all", "--security-opt", "no-new-privileges", "--unsetenv-all"]
    # The image's files belong to the account of the host, which is the image's user inside.
    return [*command, "--userns", f"keep-id:uid={user},gid={group}", "--user", f"{user}:{group}"]


def end(kind: Isolation, process: subprocess.Popen[bytes]) -> None:
    """End a sandbox with all that runs in it.

    :param kind: what it is.
    :param process: the process that was started with one of the commands above; it may have ended.
    """
    if kind != "bubblewrap":
        # Killed, it would leave the container to end by itself.
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
    process.kill()


def first_process(kind: Isolation, pid: int, folder: Path) -> int:
    """Return the process that everything in a sandbox descends from.

    :param kind: what it runs in.
    :param pid: the process that was started with :func:`command_line`.
    :param folder: what was given to it.
    """
    return pid if kind == "bubblewrap" else int((folder / _PID_FILE).read_text())


def _user(run: Mapping[str, Any]) -> tuple[int, int]:
    """Return the image's user and group, another number where it says root or a name."""
    user, _, group = str(run.get("User") or "").partition(":")
    number = int(user) if user.isdecimal() and int(user) > 0 else _DEFAULT_USER
    return number, int(group) if group.isdecimal() and int(group) > 0 else number


def _working_directory(run: Mapping[str, Any]) -> str:
    folder = str(run.get("WorkingDir") or "/")
    return folder if folder.startswith("/") else "/"


def _environment(run: Mapping[str, Any]) -> dict[str, str]:
    image = dict(entry.partition("=")[::2] for entry in run.get("Env") or [])
    return {"PATH": _DEFAULT_PATH, **image}


@functools.cache
def _relay_source() -> str:
    # Also when this program is one packed file.
    loader = globals()["__loader__"]
    name = str(Path(__file__).with_name("relay.py"))
    source: bytes = loader.get_data(name)
    return source.decode()


def quiet_environment() -> dict[str, str]:
    """Return the environment of a sandbox's own program: where programs are found, and nothing else of ours."""
    names = ("PATH", "HOME", "XDG_RUNTIME_DIR")
    return {name: os.environ[name] for name in names if name in os.environ}
