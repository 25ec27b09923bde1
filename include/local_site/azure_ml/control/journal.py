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
    :param seconds: from its first byte to the last byte of the answer.
    :param fault: the fault that was made on purpose, or ``""``.
    """

    time: str
    method: str
    path: str
    status: int
    seconds: float
    fault: str = ""


class Journal:
    """Keeps the newest entries in memory and all of this start in a file, one JSON object per line.

    :param path: the file; when it has grown too large it becomes the previous file.
    """

    def __init__(self, path: Path) -> None:
        self._entries: deque[Entry] = deque(maxlen=KEPT_IN_MEMORY)
        self._lock = threading.Lock()
        if path.exists() and path.stat().st_size > LARGEST_FILE:
            path.replace(path.with_suffix(".previous.ndjson"))
        self._stream = path.open("a", encoding="utf-8", buffering=1)

    def add(self, entry: Entry) -> None:
        """Write one entry."""
        with self._lock:
            self._entries.append(entry)
            self._stream.write(json.dumps(asdict(entry)) + "\n")

    def entries(self) -> list[Entry]:
        """Return the newest entries, oldest first."""
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        """Forget the entries in memory; the file stays."""
        with self._lock:
            self._entries.clear()
