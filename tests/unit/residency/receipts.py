"""Receipts to test with: small, but with every field that a real one has."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_training.residency.receipt import SignedReceipt, sign

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def facts(run_id: str = "run-1", site: str = "local", **changed: Any) -> dict[str, Any]:
    """Return what a receipt says of a run, without its place in the chain."""
    return {
        "site": site,
        "run": {
            "id": run_id,
            "experiment": "e",
            "state": "Completed",
            "attempt": 1,
            "dag_id": "d",
            "dag_run_id": "manual__1",
        },
        "data": {"fingerprint": "sha256:" + "1" * 64, "blobs": 2, "bytes": 100},
        "code": {"project": "p", "digest": "sha256:" + "2" * 64, "files": 3, "bytes": 300},
        "sandbox": {"kind": "bubblewrap", "self_test": {"connections": "closed"}, "scan": {"rows": 5}},
        "items": [
            {"kind": "model", "name": "model.onnx", "bytes": 9, "sha256": "3" * 64, "verdict": "passed", "reason": ""}
        ],
        "withheld": [],
        "wiped": {"files": 4, "bytes": 100, "grant": True, "earlier_runs": {"files": 0, "bytes": 0}},
        "audit": {"result": "clean", "compared": {"artifacts": 3}, "differences": []},
        "bytes_out": {"model": 9, "total": 9},
        **changed,
    }


def chain(length: int, site: str = "local", key: Ed25519PrivateKey = KEY) -> list[SignedReceipt]:
    """Return a site's first receipts."""
    made: list[SignedReceipt] = []
    for number in range(1, length + 1):
        previous = made[-1].digest if made else ""
        place = {"issued": "2026-11-21T00:00:00Z", "previous": previous, "sequence": number}
        made.append(sign({**facts(f"run-{number}", site), **place}, key))
    return made
