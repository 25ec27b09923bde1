"""The runtime below docker, without docker's daemon: how an image's program is described to ``runc``.

Every host with docker has it. It starts what has been unpacked already, as an ordinary account, where the daemon would fetch the image once
more, with a login of its own, and would have to be permitted to the account, which is as good as making it root. Without ranges of user
ids there is one user in it: number 0, which has no capability and is the account outside.

The description is an OCI runtime bundle: github.com/opencontainers/runtime-spec, ``config.md`` and ``config-linux.md``.
"""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# What runc can read in the container's own /proc and could change there for all; the same that docker hides.
_HIDDEN = ("asound", "acpi", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi")
_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_PLAIN = ("nosuid", "nodev", "mode=1777")


def command(
    folder: Path,
    root: Path,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    working_directory: str = "/",
    binds: Mapping[str, tuple[str, str]],
    pid_file: Path,
) -> list[str]:
    """Describe a program in a folder, and return the command that runs it there.

    :param folder: gets the bundle and runc's own state; exists.
    :param root: the files that the program sees, which stay as they are.
    :param arguments: the program's command line.
    :param environment: all of its environment.
    :param working_directory: where it starts.
    :param binds: what else it sees: where → the host's path, and ``"rw"`` or ``"ro"``.
    :param pid_file: gets the number of its first process, as the host sees it.
    """
    # Each start has a name of its own: what is left of one that was killed does not stand in the way.
    name = uuid.uuid4().hex
    bundle = folder / name
    bundle.mkdir(mode=0o700)
    content = _bundle(root, arguments, environment, working_directory, binds)
    (bundle / "config.json").write_text(json.dumps(content))
    state = ["runc", "--root", str(folder / "runc")]
    return [*state, "run", "--bundle", str(bundle), "--pid-file", str(pid_file), name]


def _bundle(
    root: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    working_directory: str,
    binds: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    mounts = [
        _mount("/proc", "proc"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/shm", "tmpfs", *_PLAIN, "noexec"),  # noqa: S108 - the container's own
        _mount("/tmp", "tmpfs", *_PLAIN),  # noqa: S108 - the container's own
    ]
    mounts += [
        {"destination": inside, "type": "bind", "source": outside, "options": ["rbind", mode, "nosuid", "nodev"]}
        for inside, (outside, mode) in binds.items()
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(arguments),
            "env": [f"{key}={value}" for key, value in environment.items()],
            "cwd": working_directory,
            "noNewPrivileges": True,
            "capabilities": {},
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in ("user", "mount", "pid", "network", "ipc", "uts")],
            "uidMappings": [{"containerID": 0, "hostID": os.geteuid(), "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": os.getegid(), "size": 1}],
            "maskedPaths": [*(f"/proc/{name}" for name in _HIDDEN), "/sys/firmware"],
            "readonlyPaths": [f"/proc/{name}" for name in _READ_ONLY],
        },
    }


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}
