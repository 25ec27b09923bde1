"""The runner's own record of a run, ``outputs/edge_run.json``: what left, what did not, and what became of the data."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edge_run.workspace import Wiped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_run.gate import Gate

VERSION = 1
RECORD_FILE = "edge_run.json"


class RunRecord:
    """Collects what stands in the record, while the run goes on.

    :param fingerprint: the data fingerprint that the run was submitted for.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.sandbox: dict[str, Any] = {"kind": "", "self_test": {}}
        self.data = {"blobs": 0, "bytes": 0}
        self.wiped = Wiped()
        self.remains = Wiped()
        self.grant_removed = False
        self.seconds: dict[str, float] = {}
        self.failure: tuple[str, str] | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase of the run, also when it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - start, 3)

    def to_json(self, gate: Gate) -> dict[str, Any]:
        """Return the record as an object; it has no value of the data and no blob's name."""
        return {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "result": "failed" if self.failure else "completed",
            "error_code": self.failure[0] if self.failure else "",
            "sandbox": self.sandbox,
            "data": self.data,
            "items": [asdict(item) for item in gate.items],
            "withheld": len(gate.withheld),
            "bytes_out": gate.bytes_out,
            "wiped": {
                **asdict(self.wiped),
                "grant": self.grant_removed,
                "earlier_runs": asdict(self.remains),
            },
            "seconds": self.seconds,
        }

    def write(self, gate: Gate, folder: Path) -> None:
        """Write the record, whole or not at all.

        :param gate: what the script wanted to send.
        :param folder: the run's ``outputs``.
        """
        part = folder / f".{RECORD_FILE}.part"
        part.write_text(json.dumps(self.to_json(gate), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(folder / RECORD_FILE)
