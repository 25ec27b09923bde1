"""Watches what a script takes in all: processes, memory and disk. The kernel's own limits hold for each process only."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edge_run.files import disk_usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EVERY_SECONDS = 0.1
# A look at a large folder takes long; it is not repeated before so many times as long have gone by.
_REST = 20


class Watch:
    """Looks at a script's processes and folders now and then.

    :param pid: of the sandbox's first process; all of the script's come from it.
    :param folders: all that the script can write to on disk.
    :param processes: the most processes and threads.
    :param memory: the most memory in bytes.
    :param disk: the most bytes on disk.
    """

    def __init__(self, pid: int, folders: Sequence[Path], processes: int, memory: int, disk: int) -> None:
        self._pid = pid
        self._folders = folders
        self._processes, self._memory, self._disk = processes, memory, disk
        self._next = self._next_disk = 0.0

    def excess(self) -> str:
        """Return which limit is exceeded, as the end of a sentence, or ``""``; most calls return at once."""
        now = time.monotonic()
        if now < self._next:
            return ""
        self._next = now + EVERY_SECONDS
        return self._processes_excess() or self._disk_excess(now)

    def _processes_excess(self) -> str:
        pids = list(_descendants(self._pid))
        if sum(map(_threads, pids)) > self._processes:
            return f"it had more than {self._processes} processes and threads"
        # What processes share is counted once only by the second, slower way.
        if sum(map(_resident, pids)) > self._memory and sum(map(_share, pids)) > self._memory:
            return f"its processes took more than {self._memory / 1e6:.0f} MB of memory together"
        return ""

    def _disk_excess(self, now: float) -> str:
        if now < self._next_disk:
            return ""
        used = sum(disk_usage(folder) for folder in self._folders)
        self._next_disk = now + max(EVERY_SECONDS, _REST * (time.monotonic() - now))
        return f"it kept more than {self._disk / 1e6:.0f} MB on disk" if used > self._disk else ""


def _descendants(pid: int) -> Iterator[int]:
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        yield one
        for task in _entries(f"/proc/{one}/task"):
            waiting += map(int, _read(f"/proc/{one}/task/{task}/children").split())


def _threads(pid: int) -> int:
    return len(_entries(f"/proc/{pid}/task"))


def _resident(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def _share(pid: int) -> int:
    """Return a process's memory, with what it shares with others divided among them; its whole memory when that is not told."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208 - ten times a second; names are all that is asked for
    except OSError:
        return []


def _read(path: str) -> str:
    """Return a file's text, or nothing when its process has just ended."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
