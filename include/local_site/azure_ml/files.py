"""Writing files so that a crash at any moment leaves either the old file or the new one."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def write_file(path: Path, chunks: Iterable[bytes], mode: int = 0o600, drafts: Path | None = None) -> int:
    """Write a file beside its place, sync it, and put it there.

    :param path: where it goes; its folder is made when it is missing.
    :param mode: its permissions.
    :param drafts: a folder on the same file system to write it in instead.
    :return: how many bytes were written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = (drafts or path.parent) / f".{path.name}.{uuid.uuid4().hex}"
    size = 0
    try:
        with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
            for chunk in chunks:
                size += stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        settle(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return size


def settle(draft: Path, path: Path, *, only_new: bool = False) -> None:
    """Put a synced draft in its place, and sync the folder that now names it.

    :param only_new: whether a file that is there already is left alone.
    :raises FileExistsError: when it is, and there is one.
    """
    if only_new:
        path.hardlink_to(draft)
        draft.unlink()
    else:
        draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
