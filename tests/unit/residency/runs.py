"""A run as Azure ML should hold it, and the gate's record of it, to be tampered with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from edge_training.records import CodeFile, CodeManifest
from edge_training.residency.audit import Expected
from edge_training.residency.evidence import Evidence, HeldFile, HeldMetric, Snapshot
from edge_training.residency.gate_record import parse_record

RUN = "edge_training_local-0123456789ab-1"
SNAPSHOT = "0bbdf944-df2e-4fff-a04c-8e98ecaed58e"
VALUE_ID = "5b0a8a3c-6f55-4a2e-9d4e-000000000001"
CODE = CodeManifest("p", (CodeFile("edge_run/__main__.py", 20, "a" * 64), CodeFile("project/train.py", 10, "b" * 64)))
MODEL = b"a model"
LOG = b"start  | in bubblewrap\nscript | hello\n"
TAGS = {"site": "local", "run_id": RUN, "attempt": "1"}
ARGUMENTS = ("--grant", "/home/vm/.edge-training/grants/0.json", "--fingerprint", "sha256:" + "1" * 64)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def item(kind: str, name: str, content: bytes, verdict: str = "passed", reason: str = "") -> dict[str, Any]:
    digest = sha256(content) if content else ""
    return {"kind": kind, "name": name, "bytes": len(content), "sha256": digest, "verdict": verdict, "reason": reason}


ITEMS = [
    item("log", "stdout", b"hello"),
    item("metric", "auc", b"auc=0.75 step=None"),
    item("metric", "loss", b"loss=0.5 step=1"),
    item("metric", "loss", b"loss=0.25 step=2"),
    item("model", "model.onnx", MODEL),
]


def record(**changed: Any) -> dict[str, Any]:
    """Return the gate's record of the run."""
    return {
        "version": 2,
        "run_id": RUN,
        "fingerprint": "sha256:" + "1" * 64,
        "result": "completed",
        "error_code": "",
        "error_message_sha256": "",
        "sandbox": {"kind": "bubblewrap", "self_test": {"connections": "closed"}},
        "data": {"blobs": 2, "bytes": 100},
        "scan": {"method": "python", "rows": 5, "seconds": 0.5},
        "items": ITEMS,
        "withheld": 0,
        "dropped": 0,
        "bytes_out": sum(one["bytes"] for one in ITEMS),
        "log": {"lines": LOG.count(b"\n"), "bytes": len(LOG), "sha256": sha256(LOG)},
        "wiped": {"files": 4, "bytes": 100, "grant": True, "earlier_runs": {"files": 0, "bytes": 0}},
        "seconds": {"fetch": 0.1},
        **changed,
    }


def content_of(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


RECORD = content_of(record())
END = f"end    | completed: {len(ITEMS)} items, {record()['bytes_out']} bytes of the script's left; see outputs/edge_run.json\n".encode()


def file(name: str, content: bytes) -> HeldFile:
    return HeldFile(name, len(content), sha256(content), content)


def metric(name: str, value: Any, step: int | None = None, /, **changed: Any) -> HeldMetric:
    return replace(HeldMetric(name, "azureml.v1.scalar", {name: value}, step, VALUE_ID), **changed)


def expected(**changed: Any) -> Expected:
    """Return what may be there."""
    fields: dict[str, Any] = {
        "run_id": RUN,
        "code": CODE,
        "record": parse_record(RECORD),
        "record_content": RECORD,
        "tags": TAGS,
        "arguments": ARGUMENTS,
    }
    return Expected(**{**fields, **changed})


def held(**changed: Any) -> Evidence:
    """Return exactly that, as Azure ML holds it."""
    fields: dict[str, Any] = {
        "run_id": RUN,
        "state": "Completed",
        "tags": TAGS,
        "properties": {"ContentSnapshotId": SNAPSHOT, "_azureml.ComputeTargetType": "VirtualMachine"},
        "arguments": ARGUMENTS,
        "variables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"},
        "snapshots": (
            Snapshot(
                SNAPSHOT, tuple(HeldFile(one.path, one.size, one.sha256) for one in CODE.files), ("edge_run", "project")
            ),
        ),
        "artifacts": (
            file("outputs/edge_run.json", RECORD),
            file("outputs/model.onnx", MODEL),
            file("user_logs/std_log.txt", LOG + END),
        ),
        "metrics": (metric("auc", 0.75), metric("loss", 0.5, 1), metric("loss", 0.25, 2)),
    }
    return Evidence(**{**fields, **changed})


def with_artifact(name: str, content: bytes = b"") -> Evidence:
    return held(artifacts=(*held().artifacts, file(name, content)))


def without_artifact(name: str) -> Evidence:
    return held(artifacts=tuple(one for one in held().artifacts if one.name != name))


def with_content(name: str, content: bytes) -> Evidence:
    return held(artifacts=(*without_artifact(name).artifacts, file(name, content)))
