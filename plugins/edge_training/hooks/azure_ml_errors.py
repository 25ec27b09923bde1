"""The one place where what the Azure ML SDK raises becomes an error of ours.

The SDK raises its own exceptions, msrest's, azure-core's, msal's and plain ``requests`` ones, depending on which of its generations
a call goes through. Callers of the hook see :class:`~edge_training.exceptions.ServiceError` and nothing else.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests
from azure.core import exceptions as azure_core
from msrest import exceptions as msrest

from edge_training.exceptions import EdgeTrainingError, ServiceError
from edge_training.hooks.azure_ml_transport import UnansweredError, retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICE = "Azure ML"

ADVICE = {
    400: "The request is not one that Azure ML accepts: see its message.",
    401: "Azure ML refused the credentials: check login and password (client id and secret) of the connection, and its tenant_id.",
    403: "The client lacks a role on the workspace: it needs at least 'AzureML Data Scientist', and 'AzureML Compute Operator' to attach.",
    404: "Check subscription_id, resource_group and workspace in the connection's extra.",
    409: "It exists already with another definition.",
    429: "Azure ML asks for patience; the task tries again.",
}
NO_ANSWER = "Azure ML did not answer: check the network, and the private CA in REQUESTS_CA_BUNDLE when the certificate is refused."


@contextmanager
def azure_ml_errors(doing: str, conn_id: str) -> Iterator[None]:
    """Turn whatever the SDK raises inside into a :class:`ServiceError`.

    :param doing: what was tried, to which id, to end the sentence "Could not ...".
    :param conn_id: the connection, so that a person knows where to look.
    :raises ServiceError: in place of any exception that is not ours.
    """
    try:
        yield
    except EdgeTrainingError:
        raise
    except Exception as error:  # the SDK has no common root; this boundary is what makes one
        raise map_error(error, doing, conn_id) from error


def map_error(error: BaseException, doing: str, conn_id: str) -> ServiceError:
    """Return the :class:`ServiceError` that stands for an exception of the SDK.

    :param error: what the SDK, or a library below it, raised.
    :param doing: what was tried, to which id.
    :param conn_id: the connection's id.
    """
    status = status_of(error)
    answered = status is not None or not _is_network(error)
    trusted = not _is_untrusted(error)
    advice = ADVICE.get(status or 0, "") if answered else NO_ANSWER
    said = message_of(error)
    parts = [f"Could not {doing} (connection '{conn_id}'): {said}", advice, f"HTTP status {status}." if status else ""]
    return ServiceError(
        " ".join(part for part in parts if part),
        service=SERVICE,
        status=status,
        code=code_of(error),
        retryable=None if status is not None else not answered and trusted,
    )


def status_of(error: BaseException) -> int | None:
    """Find the HTTP status that an exception of the SDK carries, in itself, its cause or its text.

    :param error: what the SDK raised.
    """
    for one in _chain(error):
        for value in (getattr(one, "status_code", None), getattr(getattr(one, "response", None), "status_code", None)):
            if isinstance(value, int):
                return value
    if _is_refused_login(error):
        return 401
    if type(error).__name__ == "ProjectSystemException" and "not found" in str(error).lower():
        return 404  # how the SDK says that the workspace does not exist
    found = re.search(r"Response Code: (\d{3})|Code: (\d{3})\b", str(error))
    return int(found[1] or found[2]) if found else None


def code_of(error: BaseException) -> str | None:
    """Find the service's own error code.

    :param error: what the SDK raised.
    """
    for one in _chain(error):
        inner = one if isinstance(one, UnansweredError) else getattr(getattr(one, "error", None), "error", None)
        code = getattr(inner, "code", None)
        if isinstance(code, str):
            return code
    return None


def wished_pause(error: BaseException) -> float | None:
    """Return the seconds that the service asks to wait for in an error (Retry-After), or ``None``.

    :param error: what the SDK raised, or the error of ours that stands for it.
    """
    for one in _chain(error):
        if isinstance(one, UnansweredError):
            return one.retry_after
        headers = getattr(getattr(one, "response", None), "headers", None)
        if headers is not None:
            return retry_after(headers)
    return None


def is_stale_login(error: ServiceError) -> bool:
    """Tell whether a service refused an access token, which a new login may mend; a refused client secret it does not.

    :param error: of ours, with what the SDK raised as its cause.
    """
    if error.status != requests.codes.unauthorized or error.__cause__ is None:
        return False
    return any(isinstance(one, msrest.TokenExpiredError) for one in _chain(error)) or not _is_refused_login(
        error.__cause__
    )


def message_of(error: BaseException) -> str:
    """Return what the service said, in one line and without the SDK's dump of headers.

    :param error: what the SDK raised.
    """
    for one in _chain(error):
        inner = one if isinstance(one, UnansweredError) else getattr(getattr(one, "error", None), "error", None)
        said = getattr(inner, "message", None)
        if isinstance(said, str):
            return _one_line(said)
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    found = re.search(r'"message":\s*"((?:[^"\\]|\\.)*)"', str(text))
    return _one_line(found[1] if found else str(text))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 500 else line[:497] + "..."


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        inner = getattr(one, "inner_exception", None) or getattr(one, "_inner_exception", None)
        one = inner if isinstance(inner, BaseException) else one.__cause__ or one.__context__


def _is_network(error: BaseException) -> bool:
    kinds = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        msrest.ClientRequestError,
        azure_core.ServiceRequestError,
        azure_core.ServiceResponseError,
        azure_core.IncompleteReadError,
        ConnectionError,
        TimeoutError,
    )
    return any(
        isinstance(one, kinds) or (isinstance(one, UnansweredError) and one.status_code is None)
        for one in _chain(error)
    )


def _is_untrusted(error: BaseException) -> bool:
    """Tell whether the server's certificate was refused, which no waiting mends."""
    return any("CERTIFICATE_VERIFY_FAILED" in str(one) for one in _chain(error))


def _is_refused_login(error: BaseException) -> bool:
    """Tell whether the identity service refused the client, which the SDK reports without a status."""
    names = {type(one).__name__ for one in _chain(error)}
    return bool(names & {"AuthenticationException", "AuthenticationError", "TokenExpiredError"}) and not _is_network(
        error
    )
