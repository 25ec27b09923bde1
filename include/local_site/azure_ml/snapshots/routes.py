"""The project content service."""

from __future__ import annotations

import re

from local_site.azure_ml.errors import BadRequestError
from local_site.azure_ml.names import check_name, check_path
from local_site.azure_ml.snapshots.state import NONE
from local_site.azure_ml.web import WORKSPACE, Answer, Call, Route, field_of

SNAPSHOT_ID = re.compile(r"[0-9a-fA-F-]{32,36}")
MOST_NAMES = 20_000


def latest(_call: Call) -> Answer:
    """Say that there is no newest snapshot to compare with: a client without a cache of its own sends everything."""
    return {"root": {}, "id": NONE}


def places(call: Call) -> Answer:
    """Say where the content of each named file goes."""
    names = field_of(call.json(), "FileNames", list)
    if len(names) > MOST_NAMES or not all(isinstance(name, str) for name in names):
        raise BadRequestError(f"FileNames must be at most {MOST_NAMES} texts.")
    blobs = call.backend.blobs
    return {
        "fileNodes": [
            {"fullName": check_path(name, "snapshot file"), "blobUri": blobs.write_url(blobs.new_key())}
            for name in names
        ]
    }


def add(call: Call) -> Answer:
    """Keep a snapshot whose changed files have been sent."""
    body = call.json()
    snapshot_id = check_name(call.path["snapshot_id"], SNAPSHOT_ID, "snapshot")
    nodes = field_of(field_of(body, "FileRevisionList", dict), "FileNodes", list)
    changed: dict[str, str] = {}
    for node in nodes:
        if not isinstance(node, dict):
            raise BadRequestError("Every one of FileNodes must be an object.")
        name = check_path(field_of(node, "FullName", str), "snapshot file")
        changed[name] = call.backend.blobs.key_of(field_of(node, "BlobUri", str))
    tree = field_of(body, "DirTreeNode", dict)
    call.backend.snapshots.add(snapshot_id, field_of(body, "ParentSnapshotId", str, NONE), tree, changed)
    return {"id": snapshot_id}


def archive(call: Call) -> Answer:
    """Say where the whole snapshot is as a ZIP file."""
    key = call.backend.snapshots.archive(call.path["snapshot_id"])
    return {"zipSasUri": call.backend.blobs.read_url(key), "status": "Succeeded"}


ROUTES = [
    Route("GET", f"/content/v1.0{WORKSPACE}/snapshots/latest/metadata", latest),
    Route("POST", f"/content/v2.0{WORKSPACE}/snapshots/getblob", places),
    Route("POST", f"/content/v2.0{WORKSPACE}/snapshots/{{snapshot_id}}", add),
    Route("POST", f"/content/v2.0{WORKSPACE}/snapshots/{{snapshot_id}}/zip", archive),
]
