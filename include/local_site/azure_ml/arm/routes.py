"""What the SDK asks of Azure Resource Manager, and of the workspace's own view of its computes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from local_site.azure_ml.errors import BadRequestError
from local_site.azure_ml.names import COMPUTE, check_name
from local_site.azure_ml.settings import SERVICES
from local_site.azure_ml.ssh import Login
from local_site.azure_ml.web import WORKSPACE, Access, Answer, Call, Route, field_of, texts_of

if TYPE_CHECKING:
    from local_site.azure_ml.database import Row

ATTACH_WAIT_SECONDS = 4.0
COMPUTES = f"{WORKSPACE}/computes"


def subscriptions(call: Call) -> Answer:
    """List the one subscription."""
    settings = call.backend.settings
    item = {
        "id": f"/subscriptions/{settings.subscription_id}",
        "subscriptionId": settings.subscription_id,
        "tenantId": settings.tenant_id,
        "displayName": "Local site",
        "state": "Enabled",
    }
    return {"value": [item]}


def workspace(call: Call) -> Answer:
    """Return the workspace."""
    return _workspace(call)


def workspaces(call: Call) -> Answer:
    """List the one workspace."""
    return {"value": [_workspace(call)]}


def discovery(call: Call) -> Answer:
    """Say where each service is: all in one place here."""
    return dict.fromkeys(SERVICES, call.backend.settings.base_url)


def attach(call: Call) -> Answer:
    """Attach a virtual machine, by address or by resource id."""
    name = check_name(call.path["compute"], COMPUTE, "compute")
    properties = field_of(call.json(), "properties", dict)
    kind = field_of(properties, "computeType", str)
    if kind != "VirtualMachine":
        raise BadRequestError(f"Computes of type {kind} are not supported here; only VirtualMachine is.")
    inner = field_of(properties, "properties", dict)
    account = field_of(inner, "administratorAccount", dict)
    login = Login(
        _address(call, properties, inner),
        _port(field_of(inner, "sshPort", int, 22)),
        field_of(account, "username", str),
        field_of(account, "password", str, ""),
        field_of(account, "privateKeyData", str, ""),
        field_of(account, "passphrase", str, ""),
    )
    if not login.password and not login.private_key:
        raise BadRequestError("The administrator account needs a password or a private key.")
    description, tags = field_of(properties, "description", str, ""), texts_of(call.json(), "tags")
    facts = {"resourceId": properties.get("resourceId"), "description": description or None, "tags": tags}
    operation = call.backend.computes.attach(name, login, facts, ATTACH_WAIT_SECONDS)
    return _accepted(call, operation, 201, _compute(call, call.backend.computes.get(name)))


def detach(call: Call) -> Answer:
    """Detach a virtual machine. There is nothing underneath that this server could delete."""
    if call.query.get("underlyingResourceAction", "detach").lower() != "detach":
        raise BadRequestError("An attached virtual machine can be detached, not deleted.")
    return _accepted(call, call.backend.computes.detach(call.path["compute"]), 202, None)


def compute(call: Call) -> Answer:
    """Return a compute."""
    return _compute(call, call.backend.computes.get(call.path["compute"]))


def computes(call: Call) -> Answer:
    """List the computes."""
    return {"value": [_compute(call, row) for row in call.backend.computes.all()]}


def keys(call: Call) -> Answer:
    """Return the credentials given at attach, as Azure does."""
    row = call.backend.computes.get(call.path["compute"])
    account = {"username": row["username"], "password": row["password"] or None}
    account |= {"privateKeyData": row["private_key"] or None, "passphrase": row["passphrase"] or None}
    return {"computeType": "VirtualMachine", "administratorAccount": account}


def operation(call: Call) -> Answer:
    """Say how an operation goes."""
    row = call.backend.computes.operation(call.path["operation"])
    error = json.loads(row["error"]) if row["error"] else None
    return {"name": row["operation_id"], "status": row["status"]} | ({"error": error} if error else {})


def _address(call: Call, properties: dict[str, Any], inner: dict[str, Any]) -> str:
    resource = field_of(properties, "resourceId", str, "")
    if not resource:
        return field_of(inner, "address", str)
    known = {key.lower(): value for key, value in call.backend.settings.virtual_machines.items()}
    if resource.lower() not in known:
        raise BadRequestError(
            f"There is no virtual machine {resource}. Give its address in the setting 'virtual_machines'.",
            code="VirtualMachineNotFound",
        )
    return known[resource.lower()]


def _port(number: int) -> int:
    if not 0 < number < 65536:
        raise BadRequestError(f"The sshPort {number} is not a TCP port.")
    return number


def _workspace(call: Call) -> dict[str, Any]:
    settings = call.backend.settings
    return {
        "id": settings.workspace_path,
        "name": settings.workspace,
        "type": "Microsoft.MachineLearningServices/workspaces",
        "location": settings.location,
        "tags": {},
        "properties": {
            "friendlyName": settings.workspace,
            "description": "",
            "workspaceId": settings.workspace_id,
            "discoveryUrl": f"{settings.base_url}/discovery/workspaces/{settings.workspace_id}",
            "provisioningState": "Succeeded",
        },
    }


def _compute(call: Call, row: Row) -> dict[str, Any]:
    error = [{"error": json.loads(row["error"])}] if row["error"] else None
    return {
        "id": f"{call.backend.settings.workspace_path}/computes/{row['name']}",
        "name": row["name"],
        "type": "Microsoft.MachineLearningServices/workspaces/computes",
        "location": call.backend.settings.location,
        "tags": json.loads(row["tags"]),
        "properties": {
            "computeType": "VirtualMachine",
            "computeLocation": call.backend.settings.location,
            "isAttachedCompute": True,
            "description": row["description"],
            "resourceId": row["resource_id"],
            "createdOn": row["created"],
            "modifiedOn": row["modified"],
            "provisioningState": row["state"],
            "provisioningErrors": error,
            "properties": {"address": row["address"], "sshPort": row["port"], "virtualMachineSize": None},
        },
    }


def _accepted(call: Call, operation_id: str, status: int, body: dict[str, Any] | None) -> Response:
    settings = call.backend.settings
    where = f"{settings.base_url}/subscriptions/{settings.subscription_id}/operations/{operation_id}"
    headers = {"Azure-AsyncOperation": where}
    return JSONResponse(body, status, headers) if body is not None else Response(status_code=status, headers=headers)


ROUTES = [
    Route("GET", "/subscriptions", subscriptions),
    Route("GET", "/subscriptions/{subscription}/operations/{operation}", operation),
    Route("GET", WORKSPACE, workspace),
    Route("GET", WORKSPACE.removesuffix("/{workspace}"), workspaces),
    Route("GET", f"/rp/workspaces{WORKSPACE}", workspace, Access.ANY_RUN),
    Route("GET", "/discovery/workspaces/{workspace_id}", discovery, Access.OPEN),
    Route("PUT", COMPUTES + "/{compute}", attach),
    Route("DELETE", COMPUTES + "/{compute}", detach),
    Route("POST", COMPUTES + "/{compute}/listKeys", keys),
    Route("GET", COMPUTES + "/{compute}", compute),
    Route("GET", COMPUTES, computes),
    Route("GET", f"/rp/workspaces{COMPUTES}/{{compute}}", compute),
    Route("GET", f"/rp/workspaces{COMPUTES}", computes),
]
