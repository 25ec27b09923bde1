"""Files that are either there in full or not at all."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIVATE = 0o600
PUBLIC = 0o644


def write(path: Path, content: str | bytes, mode: int = PUBLIC) -> None:
    """Write a file beside its final place and move it there.

    :param path: The file; missing parent folders are made.
    :param content: What it shall hold.
    :param mode: Its permissions, which it has from its first byte on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp makes the file readable by its owner only, so a secret is never visible in between.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            os.fchmod(file.fileno(), mode)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, so that two commands do not work on the same thing at once.

    :param path: The lock file; it stays, because removing it would let two programs hold "the" lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tail(path: Path, offset: int = 0, lines: int = 15) -> str:
    """Return the last lines of a text file.

    :param path: The file; one that does not exist has no lines.
    :param offset: Where to begin, in bytes: what stands before it is not looked at.
    :param lines: At most this many lines.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
