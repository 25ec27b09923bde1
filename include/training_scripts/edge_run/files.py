"""Opening and removing files that a script or another account may have prepared to mislead us."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path


def open_ordinary(path: Path) -> BinaryIO:
    """Open a file for reading, if it is one: not a link, folder, pipe or device.

    :raises OSError: when it cannot be opened, or is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not an ordinary file")
    return os.fdopen(descriptor, "rb")


def remove_tree(folder: Path) -> tuple[int, int]:
    """Remove a folder with everything in it, and return how many files that were, and their bytes.

    Programs do it, because a script can nest its folders deeper than Python's own functions can follow.

    :raises OSError: when something is still there afterwards.
    """
    subprocess.run(["chmod", "-R", "u+rwX", "--", folder], stderr=subprocess.DEVNULL, check=False)
    files, size, _ = _measure(folder)
    subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, check=False)
    if os.path.lexists(folder):
        raise OSError(errno.ENOTEMPTY, "it could not be removed whole")
    return files, size


def disk_usage(folder: Path) -> int:
    """Return how many bytes a folder takes on disk, as far as paths can be followed."""
    return _measure(folder)[2]


def _measure(folder: Path) -> tuple[int, int, int]:
    """Count files, their bytes, and the bytes they take; what lies deeper than a path can be long is not counted."""
    files = size = taken = 0
    folders = [str(folder)]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                files += 1
                size += status.st_size
                taken += status.st_blocks * 512
    return files, size, taken
