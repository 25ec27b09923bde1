"""The environment service."""

from __future__ import annotations

from local_site.azure_ml.names import RESOURCE, check_name
from local_site.azure_ml.web import WORKSPACE, Answer, Call, Route

ENVIRONMENTS = f"/environment/v1.0{WORKSPACE}/environments"


def register(call: Call) -> Answer:
    """Register a definition. The SDK sends its fields in two spellings and reads one."""
    definition = {_lower(key): value for key, value in call.json().items() if _lower(key) not in {"name", "version"}}
    name = check_name(call.path["name"], RESOURCE, "environment")
    return call.backend.environments.register(name, call.path.get("version"), definition)


def get(call: Call) -> Answer:
    """Return a version, or the newest."""
    return call.backend.environments.get(call.path["name"], call.path.get("version"))


def listing(call: Call) -> Answer:
    """List the newest version of each."""
    return {"value": call.backend.environments.all(), "continuationToken": None}


def _lower(key: str) -> str:
    return key[:1].lower() + key[1:]


ROUTES = [
    Route("GET", ENVIRONMENTS + "/", listing),
    Route("PUT", ENVIRONMENTS + "/{name}", register),
    Route("PUT", ENVIRONMENTS + "/{name}/versions/{version}", register),
    Route("GET", ENVIRONMENTS + "/{name}", get),
    Route("GET", ENVIRONMENTS + "/{name}/versions/{version}", get),
]
