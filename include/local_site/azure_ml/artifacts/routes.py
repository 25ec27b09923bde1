"""The artifact service: names first, then content by signed URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from local_site.azure_ml.errors import BadRequestError, ConflictError
from local_site.azure_ml.web import WORKSPACE, Access, Answer, Call, Route, field_of

if TYPE_CHECKING:
    from local_site.azure_ml.artifacts.state import Artifact

ARTIFACTS = f"/artifact/v2.0{WORKSPACE}/artifacts"


def reserve(call: Call) -> Answer:
    """Take names, and say where their content goes; a name that is taken is an error of that name only."""
    origin, container = call.path["origin"], call.path["container"]
    paths = [field_of(item, "path", str) for item in field_of(call.json(), "paths", list) if _is_object(item)]
    artifacts, places, errors = {}, {}, {}
    for path in paths:
        try:
            artifact = call.backend.artifacts.reserve(origin, container, path)
        except ConflictError as error:
            errors[path] = {"error": {"code": error.code, "message": error.message}}
            continue
        artifacts[path] = _artifact(artifact)
        places[path] = _content(artifact, call.backend.blobs.write_url(artifact.blob))
    return {"artifacts": artifacts, "artifactContentInformation": places, "errors": errors}


def content(call: Call) -> Answer:
    """Say where one file's content is."""
    artifact = call.backend.artifacts.get(call.path["origin"], call.path["container"], call.path["path"])
    return _content(artifact, call.backend.blobs.read_url(artifact.blob))


def content_below(call: Call) -> Answer:
    """Say where the content of a file, or of every file in a folder, is."""
    found = call.backend.artifacts.below(call.path["origin"], call.path["container"], call.path["prefix"])
    return {
        "value": [_content(item, call.backend.blobs.read_url(item.blob)) for item in found],
        "continuationToken": None,
    }


def listing(call: Call) -> Answer:
    """List every file of a container."""
    found = call.backend.artifacts.below(call.path["origin"], call.path["container"])
    return {"value": [_artifact(item) for item in found], "continuationToken": None}


def metadata(call: Call) -> Answer:
    """Return one file's facts without its content."""
    return _artifact(call.backend.artifacts.get(call.path["origin"], call.path["container"], call.path["path"]))


def delete(call: Call) -> Answer:
    """Delete one file, name and content."""
    origin, container, path = call.path["origin"], call.path["container"], call.path["path"]
    found = call.backend.artifacts.get(origin, container, path)
    call.backend.artifacts.forget(origin, container, path)
    call.backend.blobs.path(found.blob).unlink(missing_ok=True)
    return None


def _is_object(item: Any) -> bool:
    if not isinstance(item, dict):
        raise BadRequestError("Every one of 'paths' must be an object with a 'path'.")
    return True


def _artifact(artifact: Artifact) -> dict[str, Any]:
    return {
        "artifactId": artifact.id,
        "origin": artifact.origin,
        "container": artifact.container,
        "path": artifact.path,
        "createdTime": artifact.created,
    }


def _content(artifact: Artifact, url: str) -> dict[str, Any]:
    return {"contentUri": url, "origin": artifact.origin, "container": artifact.container, "path": artifact.path}


ROUTES = [
    Route("POST", ARTIFACTS + "/batch/metadata/{origin}/{container}", reserve, Access.RUN),
    Route("GET", ARTIFACTS + "/prefix/contentinfo/{origin}/{container}/{prefix:path}", content_below, Access.RUN),
    Route("GET", ARTIFACTS + "/contentinfo/{origin}/{container}/{path:path}", content, Access.RUN),
    Route("GET", ARTIFACTS + "/metadata/{origin}/{container}/{path:path}", metadata, Access.RUN),
    Route("DELETE", ARTIFACTS + "/metadata/{origin}/{container}/{path:path}", delete),
    Route("GET", ARTIFACTS + "/{origin}/{container}", listing, Access.RUN),
]
