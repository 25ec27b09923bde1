"""What the kernel says about processes of this host."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def started(pid: int) -> int | None:
    """Return when a process was started, in the kernel's ticks, or ``None`` when there is none: a later one with its id has another time.

    :param pid: its id.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def family(pid: int) -> set[int]:
    """Return a process and all its descendants.

    :param pid: its id.
    """
    parents = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            parents[int(folder.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def memory_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants; what several of them share is counted once.

    :param pid: its id.
    """
    return sum(_memory(member) for member in family(pid))


def _memory(pid: int) -> int:
    with suppress(OSError, ValueError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):
        # Not permitted to look that closely: what it has in memory, with what it shares.
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * 4096
    return 0


def _stat(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
