"""A record of every request, to read while the server runs and afterwards."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

KEPT_IN_MEMORY = 20_000
LARGEST_FILE = 32 * 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """One request.

    :param time: when it came, UTC.
    :param path: without the query, which may carry a signature.
    :param status: what was answered; 0 when the connection was cut instead.
    :param seconds: until the last byte of the answer was about to be sent.
    :param fault: the fault that was made on purpose, or ``""``.
    """

    time: str
    method: str
    path: str
    status: int
    seconds: float
    fault: str = ""


class Journal:
    """Keeps the newest entries in memory and more of them in a file, one JSON object per line.

    :param path: the file; when it has grown too large, or is cleared, it becomes the previous file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(_read(path), maxlen=KEPT_IN_MEMORY)
        self._stream = path.open("a", encoding="utf-8", buffering=1)

    def add(self, entry: Entry) -> None:
        """Write one entry."""
        with self._lock:
            if self._stream.tell() > LARGEST_FILE:
                self._turn_over()
            self._entries.append(entry)
            self._stream.write(json.dumps(asdict(entry)) + "\n")

    def entries(self) -> list[Entry]:
        """Return the newest entries, oldest first."""
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self._entries.clear()
            self._turn_over()

    def _turn_over(self) -> None:
        self._stream.close()
        self._path.replace(self._path.with_suffix(".previous.ndjson"))
        self._stream = self._path.open("a", encoding="utf-8", buffering=1)


def _read(path: Path) -> list[Entry]:
    """Return the entries of an earlier process; the last line may be half of one."""
    if not path.exists():
        return []
    entries = []
    with path.open("rb+") as stream:
        for line in stream:
            try:
                entries.append(Entry(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        stream.seek(0, 2)
        if stream.tell():
            stream.seek(-1, 2)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
    return entries
