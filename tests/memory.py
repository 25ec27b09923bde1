"""Keeps the tests' temporary files in memory where there is plenty of it.

They make and remove hundreds of thousands of small files: whole images, databases, sites. On a disk that is a tenth of the tests' time, and
much more where the file system has no journal, for it then does not give the place of a file that was just removed to another one.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

MEMORY = Path("/dev/shm")
# Short, for the addresses of socket files are in it. The number of the process comes after it.
PREFIX = "edgetests-"
# The tests with all their servers take a good 1 GiB of files at a time, and 4 GiB for themselves.
LEAST_ROOM = 4 << 30
LEAST_AVAILABLE = 8 << 30


def move_in(memory: Path = MEMORY, meminfo: Path = Path("/proc/meminfo")) -> Path | None:
    """Make a folder in memory the one for temporary files of this process and those that it starts; remove what a killed one has left.

    :param memory: a file system that is kept in memory.
    :param meminfo: tells how much of it is available.
    :return: the folder, or ``None`` where there is too little memory, or somebody has chosen a folder.
    """
    if "TMPDIR" in os.environ or not os.access(memory, os.W_OK):
        return None
    for left in memory.glob(f"{PREFIX}*"):
        number = left.name.removeprefix(PREFIX)
        if number.isdecimal() and left.stat().st_uid == os.geteuid() and not Path("/proc", number).exists():
            shutil.rmtree(left, ignore_errors=True)
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    room = os.statvfs(memory)
    if (
        found is None
        or int(found[1]) << 10 < LEAST_AVAILABLE
        or room.f_bavail * room.f_frsize < LEAST_ROOM
        or room.f_flag & os.ST_NOEXEC
    ):
        return None
    folder = memory / f"{PREFIX}{os.getpid()}"
    folder.mkdir(mode=0o755)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None
    return folder


def move_out(folder: Path) -> None:
    """Remove the folder."""
    with suppress(KeyError):
        del os.environ["TMPDIR"]
    tempfile.tempdir = None
    shutil.rmtree(folder, ignore_errors=True)
