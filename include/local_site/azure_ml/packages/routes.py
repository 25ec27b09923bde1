"""The packaging part of the model management service."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from local_site.azure_ml.errors import BadRequestError, NotFoundError
from local_site.azure_ml.names import check_name
from local_site.azure_ml.web import WORKSPACE, Answer, Call, Route, field_of

if TYPE_CHECKING:
    from starlette.responses import Response

PACKAGES = f"/modelmanagement/v1.0{WORKSPACE}"
KINDS = ("DockerImage", "DockerBuildContext")
IMAGE_NAME = re.compile(r"[a-z0-9]+(?:[._/-][a-z0-9]+){0,30}")
IMAGE_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def add(call: Call) -> Answer:
    """Package models as an image in the registry, or as a build context."""
    body = call.json()
    kind = field_of(body, "packageType", str)
    if kind not in KINDS:
        raise BadRequestError(f"There is no package type {kind!r}; the types are {', '.join(KINDS)}.")
    name, label = field_of(body, "imageName", str, ""), field_of(body, "imageLabel", str, "")
    if name:
        check_name(name, IMAGE_NAME, "image")
    if label:
        check_name(label, IMAGE_LABEL, "image label")
    request = field_of(body, "imageRequest", dict)
    _check(call, request)
    operation_id = call.backend.packages.add(kind, {**request, "imageName": name, "imageLabel": label})
    call.backend.packager.wake()
    return _accepted(call, operation_id)


def operation(call: Call) -> Answer:
    """Say how packaging goes."""
    row = call.backend.packages.get(call.path["operation_id"])
    error = json.loads(row["error"]) if row["error"] else None
    return (
        {
            "id": row["operation_id"],
            "operationType": f"Package{row['kind']}",
            "state": row["state"],
            "createdTime": row["created"],
            "operationLog": call.backend.blobs.read_url(row["log"]),
        }
        | ({"resourceLocation": _location(call, row)} if row["location"] else {})
        | ({"error": error} if error else {})
    )


def _check(call: Call, request: dict[str, Any]) -> None:
    """Check what can be known before the work begins."""
    models = field_of(request, "modelIds", list, [])
    field_of(request, "environment", dict, {})
    try:
        for model_id in models:
            call.backend.packages.model_folder(field_of({"modelId": model_id}, "modelId", str))
    except NotFoundError as error:
        raise BadRequestError(f"The package cannot be made. {error.message}", code=error.code) from error
    names = {asset.name for asset in call.backend.packages.assets(request)}
    driver = field_of(request, "driverProgram", str, "")
    if driver and driver not in names:
        raise BadRequestError(f"The driver program {driver} is none of the assets.")


def _location(call: Call, row: Any) -> str:
    """Return an image's reference, or a URL of a build context."""
    location = str(row["location"])
    return call.backend.blobs.read_url(location) if row["kind"] == "DockerBuildContext" else location


def _accepted(call: Call, operation_id: str) -> Response:
    where = f"{call.backend.settings.base_url}{PACKAGES.format(**call.path)}/operations/{operation_id}"
    return JSONResponse({}, 202, {"Operation-Location": where})


ROUTES = [
    Route("POST", f"{PACKAGES}/packages", add),
    Route("GET", f"{PACKAGES}/operations/{{operation_id}}", operation),
]
