"""Landlock: a process gives up, for itself and all that come from it, every file but those that it names."""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from edge_run.sandboxes.kernel import system_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# The same numbers on every architecture.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_GET_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REFER, _TRUNCATE, _IOCTL = (
    1 << 0,
    1 << 1,
    1 << 2,
    1 << 3,
    1 << 13,
    1 << 14,
    1 << 15,
)
_FIRST_RIGHTS = (1 << 13) - 1
# Version of Landlock → what it has learnt to refuse.
_LATER_RIGHTS = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL}
_ALL_TCP, _ALL_SCOPES = 0b11, 0b11
_TCP_SINCE, SCOPES_SINCE = 4, 6
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
READ = _EXECUTE | _READ_FILE | _READ_DIR
# Devices cannot be made, and nothing is moved here from elsewhere.
WRITE = (_FIRST_RIGHTS | _TRUNCATE | _REFER) & ~(1 << 6 | 1 << 11)


def version() -> int:
    """Return which version of Landlock the kernel has.

    :raises OSError: when it has none, or it is switched off.
    """
    return system_call("the kernel has no Landlock", _CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_GET_VERSION))


def restrict(rules: Iterable[tuple[str, int]]) -> None:
    """Give up everything that no rule names: files, and from version 6 on also signals to others and their abstract sockets.

    :param rules: paths with what is allowed at and below them; those that do not exist are left out.
    :raises OSError: when the kernel cannot do it.
    """
    known = version()
    handled = _FIRST_RIGHTS | sum(right for since, right in _LATER_RIGHTS.items() if since <= known)
    fields = [handled, *([_ALL_TCP] if known >= _TCP_SINCE else []), *([_ALL_SCOPES] if known >= SCOPES_SINCE else [])]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    what = "Landlock cannot be set up"
    ruleset = system_call(what, _CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    for path, rights in rules:
        _allow(ruleset, path, rights & handled)
    system_call(what, _RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= _OF_FILES
    rule = struct.pack("=Qi", rights, descriptor)
    arguments = (ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
    system_call(f"{path} cannot be allowed", _ADD, *arguments)
    os.close(descriptor)
