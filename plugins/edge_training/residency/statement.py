"""What a receipt says of a run, put together from what the pipeline, the gate and the audit know."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edge_training.residency.gate_record import PASSED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_training.records import BlobManifest, CodeManifest
    from edge_training.residency.audit import Audit
    from edge_training.residency.gate_record import GateRecord


def statement(
    *, site: str, run: Mapping[str, Any], data: BlobManifest, code: CodeManifest, record: GateRecord, audit: Audit
) -> dict[str, Any]:
    """Return what a receipt says, without its place in the chain.

    The data is named by its fingerprint only, for names of blobs may tell something too.

    :param site: the site's name.
    :param run: ids of the run, its experiment, DAG and DAG run, its state, and its error when it did not complete.
    :param data: the verified blobs.
    :param code: the files that were submitted.
    :param record: what the gate let out.
    :param audit: what the cloud was found to hold.
    """
    return {
        "site": site,
        "run": dict(run),
        "data": {"fingerprint": data.fingerprint, "blobs": len(data.blobs), "bytes": data.total_bytes},
        "code": {
            "project": code.project,
            "digest": code.digest,
            "files": len(code.files),
            "bytes": sum(file.size for file in code.files),
        },
        "sandbox": {**_whole(record.sandbox), "scan": _whole(record.scan)},
        "items": [asdict(item) for item in record.items if item.verdict in PASSED],
        "withheld": [asdict(item) for item in record.held_back],
        "wiped": _whole(record.wiped),
        "audit": {
            "result": audit.result,
            "compared": dict(audit.compared),
            "differences": [asdict(difference) for difference in audit.differences],
        },
        "bytes_out": dict(audit.bytes_out),
    }


def _whole(value: Any) -> Any:
    """Return a value without its fractions (durations), which have more than one text."""
    if isinstance(value, dict):
        return {str(name): _whole(item) for name, item in value.items() if not isinstance(item, float)}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def table(audit: Audit, most: int = 20) -> list[str]:
    """Return the differences as the lines of a table.

    :param audit: what the comparison came to.
    :param most: how many rows at most.
    """
    rows = [(one.where, one.what, one.expected, one.found) for one in audit.differences]
    head = ("where", "what", "let out", "in Azure ML")
    shown = [head, *rows[:most]]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    return [*lines, f"... and {len(rows) - most} more"] if len(rows) > most else lines
