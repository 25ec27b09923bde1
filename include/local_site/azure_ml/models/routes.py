"""The model management service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.errors import BadRequestError, ForbiddenError
from local_site.azure_ml.names import RESOURCE, check_name
from local_site.azure_ml.web import WORKSPACE, Access, Answer, Call, Route, field_of

if TYPE_CHECKING:
    from local_site.azure_ml.database import Row

MODELS = f"/modelmanagement/v1.0{WORKSPACE}"
LARGEST_PAGE = 1000


def add_asset(call: Call) -> Answer:
    """Keep an asset."""
    body = call.json()
    run_id = field_of(body, "runid", str, "")
    _own(call, run_id)
    name, artifacts = field_of(body, "name", str), field_of(body, "artifacts", list)
    for item in artifacts:
        _own_files(call, item)
    return _asset(call.backend.models.asset(call.backend.models.add_asset(name, run_id, artifacts)))


def get_asset(call: Call) -> Answer:
    """Return an asset."""
    return _asset(call.backend.models.asset(call.path["asset_id"]))


def register(call: Call) -> Answer:
    """Make the next version of a model."""
    body = call.json()
    _own(call, field_of(body, "runId", str, ""))
    if call.caller is not None and call.caller.run_id:
        asset = call.backend.models.asset(field_of(body, "url", str).removeprefix("aml://asset/"))
        _own(call, asset["run_id"] or "")
    name = check_name(field_of(body, "name", str), RESOURCE, "model")
    return _model(call, call.backend.models.register(name, body))


def get_model(call: Call) -> Answer:
    """Return a model version."""
    return _model(call, call.backend.models.get(call.path["model_id"]))


def delete_model(call: Call) -> Answer:
    """Forget a model version."""
    call.backend.models.delete(call.path["model_id"])
    return None


def patch_model(call: Call) -> Answer:
    """Change a version's tags, properties or description."""
    changes = call.json_value()
    if not isinstance(changes, list) or not all(isinstance(change, dict) for change in changes):
        raise BadRequestError("The body must be a JSON patch: a list of objects.")
    return _model(call, call.backend.models.patch(call.path["model_id"], changes))


def list_models(call: Call) -> Answer:
    """Return one page of model versions."""
    offset, count = _number(call, "$skipToken", 0), min(_number(call, "count", LARGEST_PAGE), LARGEST_PAGE)
    rows = call.backend.models.query(dict(call.query))
    page = rows[offset : offset + count]
    following = str(offset + count) if offset + count < len(rows) else None
    link = f"{call.backend.settings.base_url}{MODELS}/models?$skipToken={following}" if following else None
    return {
        "value": [_model(call, row) for row in page],
        "nextLink": link.format(**call.path) if link else None,
        "continuationToken": following,
    }


def _number(call: Call, name: str, default: int) -> int:
    text = call.query.get(name, str(default))
    if not text.isdecimal() or len(text) > 9:
        raise BadRequestError(f"The query's {name} must be a whole number.")
    return int(text)


def _own(call: Call, run_id: str) -> None:
    if call.caller is not None and call.caller.run_id not in {"", run_id}:
        raise ForbiddenError(f"The token of run {call.caller.run_id} cannot register what is not its own.")


def _own_files(call: Call, item: Any) -> None:
    if not isinstance(item, dict):
        raise BadRequestError("Every one of an asset's artifacts must be an object.")
    prefix = field_of(item, "prefix", str, "") or field_of(item, "id", str)
    if call.caller is not None and call.caller.run_id:
        _own(call, prefix.removeprefix("ExperimentRun/dcid.").partition("/")[0])


def _asset(row: Row) -> dict[str, Any]:
    return {
        "id": row["asset_id"],
        "name": row["name"],
        "artifacts": json.loads(row["artifacts"]),
        "runid": row["run_id"],
        "createdTime": row["created"],
    }


def _model(call: Call, row: Row) -> dict[str, Any]:
    return {
        **json.loads(row["facts"]),
        "id": row["model_id"],
        "name": row["name"],
        "version": row["version"],
        "url": row["url"],
        "kvTags": json.loads(row["tags"]),
        "properties": json.loads(row["properties"]),
        "runId": row["run_id"],
        "experimentName": row["experiment"],
        "datasets": [],
        "derivedModelIds": [],
        "createdTime": row["created"],
        "modifiedTime": row["modified"],
        "createdBy": {"userObjectId": call.backend.settings.client_id, "userName": call.backend.settings.client_id},
    }


ROUTES = [
    Route("POST", f"{MODELS}/assets", add_asset, Access.ANY_RUN),
    Route("GET", f"{MODELS}/assets/{{asset_id}}", get_asset),
    Route("POST", f"{MODELS}/models", register, Access.ANY_RUN),
    Route("GET", f"{MODELS}/models", list_models),
    Route("GET", f"{MODELS}/models/{{model_id}}", get_model),
    Route("PATCH", f"{MODELS}/models/{{model_id}}", patch_model),
    Route("DELETE", f"{MODELS}/models/{{model_id}}", delete_model),
]
