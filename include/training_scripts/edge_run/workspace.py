"""The private folder of one run on the VM, and how nothing of it stays behind.

Each run works in a folder of its own below ``~/.edge-training/work`` and holds a lock in it for as long as it lives. A run
that was killed cannot clean up, but its lock is gone: the next run finds such folders and removes them first.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_run.errors import DataError
from edge_run.files import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK = "lock"
_WORK = Path(".edge-training", "work")


@dataclass(frozen=True)
class Wiped:
    """What was removed.

    :param files: how many files.
    :param bytes: their size together.
    """

    files: int = 0
    bytes: int = 0


class Workspace:
    """A run's private folder: ``data``, ``scratch`` and ``output``, all of mode 0700.

    :param root: the folder itself.
    :param lock: descriptor that holds the folder's lock until the folder is wiped.
    """

    def __init__(self, root: Path, lock: int) -> None:
        self.root = root
        self._lock = lock
        self.data, self.scratch, self.output = root / "data", root / "scratch", root / "output"
        for folder in (self.data, self.scratch, self.output):
            folder.mkdir(mode=0o700)

    def require_space(self, needed: int) -> None:
        """Refuse to start when the disk cannot hold the data and as much again for the script to work with.

        :param needed: bytes of the data.
        :raises DataError: with what is free and what is needed.
        """
        free = shutil.disk_usage(self.root).free
        if free < 2 * needed:
            raise DataError(
                f"The VM's disk has {free / 1e6:.0f} MB free where runs work, but the data needs {2 * needed / 1e6:.0f} MB "
                "(twice its size): free some space or use a larger disk."
            )

    def wipe(self) -> Wiped:
        """Remove the folder with everything in it, and let go of its lock.

        :raises DataError: when something of it is still there.
        """
        try:
            return _remove(self.root)
        finally:
            os.close(self._lock)


def open_workspace(home: Path) -> tuple[Workspace, Wiped]:
    """Make a new run's folder, after removing what runs that were killed have left.

    :param home: the training account's home.
    :returns: the folder, and what earlier runs had left.
    """
    base = home / _WORK
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(base):
        left = _sweep(base)
        root = Path(tempfile.mkdtemp(prefix="run-", dir=base))
        lock = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return Workspace(root, lock), left


def sweep(home: Path) -> Wiped:
    """Remove what runs that were killed have left, and nothing of those that live.

    :param home: the training account's home.
    :raises DataError: when something of it is still there.
    """
    base = home / _WORK
    if not base.is_dir():
        return Wiped()
    with _locked(base):
        return _sweep(base)


def _sweep(base: Path) -> Wiped:
    remains = [_remove(folder) for folder in sorted(base.iterdir()) if folder.is_dir() and _is_abandoned(folder)]
    return Wiped(sum(one.files for one in remains), sum(one.bytes for one in remains))


@contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Keep other runs from sweeping while a folder is made but not yet locked."""
    descriptor = os.open(base / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_abandoned(folder: Path) -> bool:
    """Tell whether no living run holds the folder's lock."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _remove(folder: Path) -> Wiped:
    """Remove a folder; the lock in it is ours and not counted."""
    try:
        files, size = remove_tree(folder)
    except OSError as error:
        raise DataError(
            f"{folder} on the VM could not be removed whole, and holds training data: remove it."
        ) from error
    return Wiped(max(0, files - 1), size)
