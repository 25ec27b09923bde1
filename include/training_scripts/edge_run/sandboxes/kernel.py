"""What a sandbox asks of the Linux kernel, through the C library: Python 3.11 has no functions of its own for it."""

from __future__ import annotations

import ctypes
import errno
import os

NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""mount, cgroup, host name, IPC, user, processes, network."""
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC = 1, 2, 4, 8
REMOUNT, NO_ATIME, NO_DIR_ATIME, BIND, RECURSIVE, PRIVATE, RELATIVE_ATIME = (
    32,
    1024,
    2048,
    4096,
    16384,
    1 << 18,
    1 << 21,
)
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SET_PDEATHSIG, _SET_DUMPABLE, _CAPBSET_DROP, _SET_SECUREBITS, _SET_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 4, 24, 28, 36, 38
_AMBIENT, _AMBIENT_CLEAR = 47, 4
_ALL_SECURE_BITS = 0b10101111  # root is nobody special any more, for good
_CAPABILITY_VERSION = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)


def call(what: str, result: int) -> int:
    """Return a C function's result.

    :param what: what was wanted, for the error.
    :param result: -1 for a failure.
    :raises OSError: when it failed, saying what was wanted.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def system_call(what: str, number: int, *arguments: object) -> int:
    """Make a system call that the C library has no function for.

    :raises OSError: when it failed, saying what was wanted.
    """
    return call(what, _LIBC.syscall(ctypes.c_long(number), *arguments))


def machine() -> str:
    """Return the processor's architecture as the kernel calls it."""
    return os.uname().machine


def unshare(flags: int) -> None:
    """Move this process, or the first process that it starts, into namespaces of its own."""
    call("no new namespaces", _LIBC.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount a file system, or bind a file or folder."""
    arguments = [source.encode(), target.encode(), kind.encode() if kind else None]
    call(f"{target} cannot be mounted", _LIBC.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None))


def swap_root(folder: str) -> None:
    """Make a mounted folder the root of everything, and let go of what was the root before."""
    if machine() not in _PIVOT_ROOT:
        raise OSError(
            errno.ENOSYS, f"the root can be changed on {' and '.join(_PIVOT_ROOT)}, this machine is {machine()}"
        )
    os.chdir(folder)
    system_call("the root cannot be changed", _PIVOT_ROOT[machine()], b".", b".")
    call("the old root cannot be left", _LIBC.umount2(b".", _DETACH))
    os.chdir("/")


def set_host_name(name: str) -> None:
    """Name the machine, in a namespace of its own."""
    call("no host name", _LIBC.sethostname(name.encode(), ctypes.c_size_t(len(name))))


def die_with_parent(number: int) -> None:
    """Get a signal when the process that started this one ends."""
    _prctl("no signal at the parent's end", _SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of whatever this process's children leave behind."""
    _prctl("orphans cannot be adopted", _SET_SUBREAPER, 1)


def hide_memory() -> None:
    """Let nobody trace this process."""
    _prctl("tracing cannot be forbidden", _SET_DUMPABLE, 0)


def give_up_privileges() -> None:
    """Drop every capability for good, also those that a program of root's would get back."""
    call_prctl = _LIBC.prctl
    for capability in range(64):
        if call_prctl(_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # beyond the last one that this kernel knows, or there is nothing to drop
    # Both need a privilege that an ordinary account does not have, and then has no use for.
    call_prctl(_SET_SECUREBITS, _ALL_SECURE_BITS, 0, 0, 0)
    call_prctl(_AMBIENT, _AMBIENT_CLEAR, 0, 0, 0)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    call("capabilities cannot be dropped", _LIBC.capset(header, none))
    _prctl("new privileges cannot be forbidden", _SET_NO_NEW_PRIVS, 1)


def _prctl(what: str, option: int, value: int) -> None:
    call(what, _LIBC.prctl(ctypes.c_int(option), *(ctypes.c_ulong(one) for one in (value, 0, 0, 0))))
