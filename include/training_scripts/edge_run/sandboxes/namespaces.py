"""New namespaces of every kind: nobody else's processes, no network, and a file system of nothing but what the plan names."""

# This runs before each script: pathlib takes longer to import than all the rest; /tmp and /dev/shm are those of the sandbox.
# ruff: noqa: PTH103, PTH110, PTH112, PTH114, PTH115, PTH120, PTH123, PTH211, S108

from __future__ import annotations

import os

from edge_run.sandboxes import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

USER = 65534
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SETTINGS = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
_SAFE = kernel.NO_SUID | kernel.NO_DEVICES
# Options of a mount that cannot be taken away from it, and so must be named again with every change.
_OPTIONS = {
    "ro": kernel.READ_ONLY,
    "nosuid": kernel.NO_SUID,
    "nodev": kernel.NO_DEVICES,
    "noexec": kernel.NO_EXEC,
    "noatime": kernel.NO_ATIME,
    "nodiratime": kernel.NO_DIR_ATIME,
    "relatime": kernel.RELATIVE_ATIME,
}


def leave() -> None:
    """Move this process into namespaces of its own, as nobody in particular; the processes that it starts see none but each other.

    :raises OSError: when the kernel does not let this account.
    """
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NEW_NAMESPACES)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{USER} {user} 1")
    _write("/proc/self/gid_map", f"{USER} {group} 1")


def move_in(spec: dict[str, Any]) -> None:
    """Lay out the file system, move into it, and give up the means to change it.

    :param spec: the plan; see :mod:`edge_run.sandboxes.launch`.
    :raises OSError: when something cannot be mounted.
    """
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    root, room = spec["root"], f"size={spec['temporary_bytes']}"
    kernel.mount("tmpfs", root, "tmpfs", _SAFE, "mode=755")
    _system(root)
    _devices(root, room)
    _temporary(f"{root}/tmp", room)
    _mount_on(f"{root}/proc", "proc", "proc", _SAFE | kernel.NO_EXEC)
    for outside, inside in spec["read_only"]:
        _bind(outside, root + inside, read_only=True)
    for outside, inside in spec["writable"]:
        _bind(outside, root + inside, read_only=False)
    kernel.swap_root(root)
    kernel.mount("none", "/", None, kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | _SAFE)
    kernel.set_host_name("edge")
    # Namespaces inside these would give the script the powers that it must not have.
    _write("/proc/sys/user/max_user_namespaces", "0")
    kernel.give_up_privileges()


def _system(root: str) -> None:
    """Show the VM's programs and libraries."""
    _bind("/usr", f"{root}/usr", read_only=True)
    for folder in SYSTEM:
        if os.path.islink(folder):
            os.symlink(os.readlink(folder), root + folder)
        elif os.path.isdir(folder):
            _bind(folder, root + folder, read_only=True)
    for path in SETTINGS:
        if os.path.exists(path):
            _bind(path, root + path, read_only=True)


def _devices(root: str, room: str) -> None:
    _mount_on(f"{root}/dev", "tmpfs", "tmpfs", kernel.NO_SUID | kernel.NO_EXEC, "mode=755")
    for name in DEVICES:
        _write(f"{root}/dev/{name}", "")
        kernel.mount(f"/dev/{name}", f"{root}/dev/{name}", None, kernel.BIND)
    for name, target in _LINKS.items():
        os.symlink(target, f"{root}/dev/{name}")
    _temporary(f"{root}/dev/shm", room)


def _temporary(folder: str, room: str) -> None:
    _mount_on(folder, "tmpfs", "tmpfs", _SAFE, f"mode=1777,{room}")


def _mount_on(folder: str, source: str, kind: str, flags: int, options: str = "") -> None:
    os.makedirs(folder, exist_ok=True)
    kernel.mount(source, folder, kind, flags, options)


def _bind(outside: str, inside: str, *, read_only: bool) -> None:
    """Show a file or folder of the VM, with all that is mounted below it."""
    if os.path.isdir(outside):
        os.makedirs(inside, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        _write(inside, "")
    kernel.mount(outside, inside, None, kernel.BIND | kernel.RECURSIVE)
    for mounted, options in _mounts(inside):
        flags = sum(_OPTIONS.get(option, 0) for option in options) | _SAFE | (kernel.READ_ONLY if read_only else 0)
        kernel.mount("none", mounted, None, kernel.REMOUNT | kernel.BIND | flags)


def _mounts(folder: str) -> Iterable[tuple[str, list[str]]]:
    """Return what is mounted at and below a folder, each with its options."""
    real = os.path.realpath(folder)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        fields = [line.split(" ") for line in lines]
    places = [(_unquoted(field[4]), field[5].split(",")) for field in fields]
    return [(place, options) for place, options in places if place == real or place.startswith(f"{real}/")]


def _unquoted(path: str) -> str:
    """Return a path as it is, in which the kernel has written the characters that part its fields as numbers."""
    for quoted, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(quoted, plain)
    return path


def _write(path: str, text: str) -> None:
    """Write a file, which is made when it does not exist."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.write(descriptor, text.encode("ascii"))
    os.close(descriptor)
