"""How a service is written: a table of routes, each a function from a call to an answer."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

from local_site.azure_ml.errors import BadRequestError, ForbiddenError, NotFoundError

if TYPE_CHECKING:
    from local_site.azure_ml.backend import Backend
    from local_site.azure_ml.identity.tokens import Caller

T = TypeVar("T")
LARGEST_NUMBER = 2**62

WORKSPACE = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices/workspaces/{workspace}"
NAMES = {str: "text", int: "a whole number", dict: "an object", list: "a list", bool: "true or false"}


class Access(enum.Enum):
    """Who may call a route."""

    OPEN = "anybody"
    CLIENT = "a client that logged in"
    RUN = "a client that logged in, or the run that the path names, with its own token"
    ANY_RUN = "a client that logged in, or any run"


@dataclass(frozen=True)
class Call:
    """One request, as a handler sees it.

    :param backend: everything the server keeps.
    :param path: the variables in the path, decoded.
    :param query: the query; of a name given twice, the last value.
    :param body: the raw body.
    :param caller: whose token it is, or ``None`` on an open route.
    """

    backend: Backend
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    caller: Caller | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object; an empty body is an empty object.

        :raises BadRequestError: when it is not one.
        """
        content = self.json_value() if self.body.strip() else {}
        if not isinstance(content, dict):
            raise BadRequestError("The body must be a JSON object.")
        return content

    def json_value(self) -> Any:
        """Return the body as JSON of any kind.

        :raises BadRequestError: when it is not JSON.
        """
        try:
            content = json.loads(self.body)
            if b"\\u" in self.body:
                json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair is no character
        except (ValueError, RecursionError) as error:
            raise BadRequestError(f"The body is not JSON: {error}.") from error
        return content


Answer = Response | dict[str, Any] | list[Any] | None
Handler = Callable[[Call], Answer]


@dataclass(frozen=True)
class Route:
    """One line of a service's table.

    :param method: the HTTP method.
    :param path: the path with ``{variables}``; ``{name:path}`` takes slashes too.
    :param handler: answers it; a dictionary or list goes out as JSON, ``None`` as an empty 200.
    :param access: who may call it.
    """

    method: str
    path: str
    handler: Handler
    access: Access = Access.CLIENT


def allow(route: Route, call: Call) -> None:
    """Check that the caller may use the route in this workspace.

    :raises ForbiddenError: when a run's token is used for anything but that run.
    :raises NotFoundError: when the path names another subscription, resource group or workspace.
    """
    if call.caller is not None and call.caller.run_id:
        _allow_run(route, call.path, call.caller.run_id)
    settings = call.backend.settings
    if "workspace" not in call.path:
        return
    if call.path["subscription"].lower() != settings.subscription_id.lower():
        raise NotFoundError(
            f"The subscription '{call.path['subscription']}' could not be found.", code="SubscriptionNotFound"
        )
    if call.path["group"].lower() != settings.resource_group.lower():
        raise NotFoundError(f"Resource group '{call.path['group']}' could not be found.", code="ResourceGroupNotFound")
    if call.path["workspace"].lower() != settings.workspace.lower():
        raise NotFoundError(
            f"The Resource 'Microsoft.MachineLearningServices/workspaces/{call.path['workspace']}' under resource group "
            f"'{call.path['group']}' was not found."
        )


def _allow_run(route: Route, path: Mapping[str, str], run_id: str) -> None:
    if route.access is Access.ANY_RUN:
        return
    named = {path[name] for name in ("run_id", "container") if name in path}
    if route.access is not Access.RUN or not named <= {run_id, container_of(run_id)}:
        raise ForbiddenError(f"The token of run {run_id} is good for that run only.")


def container_of(run_id: str) -> str:
    """Return the artifact container that belongs to a run."""
    return f"dcid.{run_id}"


def field_of(body: Mapping[str, Any], name: str, kind: type[T], default: T | None = None) -> T:
    """Return a field of a JSON object, of the type it must have; null counts as missing.

    :param default: the value of a missing field; without one the field is required.
    :raises BadRequestError: when it is missing or of another type.
    """
    value = body.get(name)
    if value is None:
        if default is None:
            raise BadRequestError(f"The field '{name}' is missing.")
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRequestError(f"The field '{name}' must be {NAMES.get(kind, str(kind))}.")
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise BadRequestError(f"The field '{name}' is out of range.")
    return value


def texts_of(body: Mapping[str, Any], name: str) -> dict[str, str | None]:
    """Return a field that maps names to texts, such as tags; missing means empty.

    :raises BadRequestError: when it is anything else.
    """
    value = field_of(body, name, dict, {})
    if any(not isinstance(text, str) and text is not None for text in value.values()):
        raise BadRequestError(f"Every value in '{name}' must be text.")
    return value
