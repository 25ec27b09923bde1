"""The runner's own record of a run, ``outputs/edge_run.json``: what left, what did not, and what became of the data.

Version 2, an object with sorted keys::

    version      2
    run_id       of Azure ML, or ""
    fingerprint  "sha256:<hex>" of the data that the run was submitted for
    result       "completed" or "failed"; error_code: "" or the code of an error in errors.py, or "Internal";
                 error_message_sha256: of the message that Azure ML was told, or ""
    sandbox      kind: "bubblewrap", "namespaces", "seccomp" or ""; self_test: for each check "closed" or what was open
    data         blobs, bytes
    scan         method: "numpy", "python" or ""; rows, columns, cells of the data; row_cells: how many neighbouring cells make a
                 run; finds_needed: how many runs prove that it is the data; seconds it took to learn them
    items        what the script wanted to send, each with kind, name, bytes, sha256, verdict, reason, step (gate.py):
                 a model's bytes; a log line's UTF-8 as it left, without "script | " and the remark that it was cut; a metric's
                 f"{name}={value!r} step={step}"
    withheld     how many items were withheld; dropped: how many log lines were beyond the limit; bytes_out: all items' bytes
    log          lines, bytes, sha256 of all lines that the runner printed before this record, each with its end; afterwards come
                 only lines that begin with "failed | " and "end    | "
    wiped        files, bytes, grant; earlier_runs: files, bytes of runs that were killed
    seconds      of each phase

The same bytes stay on the VM, as ``~/.edge-training/records/<run id>.json``, and beside it ``<run id>.log``, each line of the log before it
was printed: of a run that was cancelled or killed, only a part of the log may have arrived.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edge_run.workspace import Wiped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_run.gate import Gate

VERSION = 2
RECORD_FILE = "edge_run.json"
KEPT = ".edge-training/records"
KEPT_SECONDS = 30 * 24 * 3600.0


class RunLog:
    """Prints the run's log, line by line, and remembers what it printed: by its hash, and in a file on this machine.

    :param run_id: of Azure ML, or ``""`` to keep no file.
    """

    def __init__(self, run_id: str) -> None:
        self._stream = sys.stdout
        self._kept: BinaryIO | None = None
        # Without the file, as on a full disk, a run goes on; should it be cut short, its log cannot be vouched for.
        with suppress(OSError):
            if run_id:
                self._kept = (_kept_folder() / f"{run_id}.log").open("ab", buffering=0)
        self._digest = hashlib.sha256()
        self._lines = self._bytes = 0

    def say(self, text: str) -> None:
        """Print some lines at once, so that whoever watches sees them."""
        # As the standard output encodes it, see __main__.
        content = f"{text}\n".encode("utf-8", "backslashreplace")
        with suppress(OSError):
            if self._kept:
                self._kept.write(content)
        print(text, file=self._stream, flush=True)
        self._digest.update(content)
        self._lines += content.count(b"\n")
        self._bytes += len(content)

    def to_json(self) -> dict[str, Any]:
        """Return how much was printed, and its hash."""
        return {"lines": self._lines, "bytes": self._bytes, "sha256": self._digest.hexdigest()}


class RunRecord:
    """Collects what stands in the record, while the run goes on.

    :param fingerprint: the data fingerprint that the run was submitted for.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        run_id = os.environ.get("AZUREML_RUN_ID", "")
        self.run_id = run_id if re.fullmatch(r"[A-Za-z0-9_-]{1,200}", run_id) else ""
        self.log = RunLog(self.run_id)
        self.scan: dict[str, Any] = {
            "method": "",
            "rows": 0,
            "columns": 0,
            "cells": 0,
            "row_cells": 0,
            "finds_needed": 0,
            "seconds": 0.0,
        }
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
            "run_id": self.run_id,
            "fingerprint": self.fingerprint,
            "result": "failed" if self.failure else "completed",
            "error_code": self.failure[0] if self.failure else "",
            "error_message_sha256": hashlib.sha256(self.failure[1].encode()).hexdigest() if self.failure else "",
            "sandbox": self.sandbox,
            "data": self.data,
            "scan": self.scan,
            "log": self.log.to_json(),
            "items": [asdict(item) for item in gate.items],
            "withheld": len(gate.withheld),
            "dropped": gate.dropped_lines,
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
        content = json.dumps(self.to_json(gate), indent=1, sort_keys=True) + "\n"
        if self.run_id:
            _keep(self.run_id, content)
        # Beside the folder: what appears in it, even for a moment, leaves.
        part = folder.parent / f".{RECORD_FILE}.part"
        part.write_text(content, encoding="utf-8")
        part.replace(folder / RECORD_FILE)


def _keep(run_id: str, content: str) -> None:
    """Keep the record on this machine too: the pipeline fetches it past Azure ML, and compares."""
    folder = _kept_folder()
    part = folder / f".{run_id}.part"
    part.touch(mode=0o600)
    part.write_text(content, encoding="utf-8")
    part.replace(folder / f"{run_id}.json")
    for old in folder.iterdir():
        if old.stat().st_mtime < time.time() - KEPT_SECONDS:
            old.unlink(missing_ok=True)


def _kept_folder() -> Path:
    folder = Path.home() / KEPT
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
