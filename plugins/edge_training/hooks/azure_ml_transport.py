"""The one place where the patience of the Azure ML SDK is bounded, so that there is one layer of retries: ours, above it.

The SDK's generations (msrest, azure-core, msal, vendored storage, plain ``requests``) repeat a request in up to three layers at once: 22 s
to notice a server that is down, 32 s for one 429 whatever its Retry-After says, read timeouts of 80,000 s or none. There are knobs for
some of the layers and none for the others. What they all share is ``requests.adapters.HTTPAdapter.send``. There, and only for calls that
come out of the SDK, an answer that may be another one later, or no answer at all, becomes :class:`UnansweredError`. No layer of the SDK
knows that error, so none repeats it, and it reaches us with its status and its Retry-After.

The SDK makes a session for each of its clients, often one for each request: each would shake hands anew, after it has read all the
certificates that the organisation trusts. So at the same place all of them are given the same connections, which share what they trust.
"""

from __future__ import annotations

import email.utils
import inspect
import json
import os
import re
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from azure.core.pipeline.transport._bigger_block_size_http_adapters import BiggerBlockSizeHTTPAdapter
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from edge_training.hooks.tls_trust import SharedTrustAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CONNECT_SECONDS = 10.0
READ_SECONDS = 100.0
LEAST_READ_SECONDS = 10.0
LARGEST_ERROR = 64 * 1024
# Load balancers and firewalls forget connections after some minutes, often without telling either end.
IDLE_SECONDS = 60.0
MOST_CONNECTIONS = 32
# What a server answers that cannot or will not do it at this moment. 501 and 505 stay what they are however often one asks.
PASSING_STATUSES = frozenset({408, 425, 429}) | (frozenset(range(500, 600)) - {501, 505})

# Whose requests are bounded: the SDK's, and ours that take its place.
BOUNDED_MODULES = ("azureml.", "edge_training.hooks.azure_ml_history")

# Adapters that do nothing of their own; azure-core's changes a method that ``requests`` does not call any more.
_PLAIN_ADAPTERS = {HTTPAdapter, BiggerBlockSizeHTTPAdapter}

_read_seconds: ContextVar[float] = ContextVar("azure_ml_read_seconds", default=READ_SECONDS)
_lock = threading.Lock()
_send = HTTPAdapter.send


class _Connections:
    """The connections that all sessions of the SDK share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used = time.monotonic()
        # "False" is what makes urllib3 raise what it has met instead of a retry's error of its own.
        self._adapter = SharedTrustAdapter(MOST_CONNECTIONS, MOST_CONNECTIONS, Retry(0, read=False))

    def instead_of(self, adapter: HTTPAdapter) -> HTTPAdapter:
        """Return what to send with in place of a session's own adapter; one that does more than plain ones do is left in place."""
        if type(adapter) not in _PLAIN_ADAPTERS:
            adapter.max_retries = Retry(0, read=False)
            return adapter
        with self._lock:
            now = time.monotonic()
            if now - self._used > IDLE_SECONDS:
                self._adapter.close()
            self._used = now
        return self._adapter


_connections = _Connections()


def _begin_anew() -> None:
    """Share no connection with the process that this one is a fork of."""
    global _connections, _lock
    _connections, _lock = _Connections(), threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)


class UnansweredError(Exception):
    """A request of the SDK got no answer, or one that says "not now".

    :param message: what happened.
    :param status_code: the HTTP status, or ``None`` when no answer came.
    :param code: the service's own error code, or ``None``.
    :param retry_after: seconds that the service asks for, or ``None``.
    """

    def __init__(
        self, message: str, status_code: int | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.retry_after = retry_after


def bound_the_sdk() -> None:
    """Put the bound in place; call it before the SDK is used. Doing it again changes nothing."""
    with _lock:
        if HTTPAdapter.send is not _bounded_send:
            HTTPAdapter.send = _bounded_send  # type: ignore[method-assign]  # the SDK offers no place for an adapter of ours
        from azureml._file_utils import file_utils

        # Downloads from Azure's own storage repeat any exception whatever, after 2, 4, 16 and 256 s.
        file_utils._retry = _once  # noqa: SLF001 - there is no setting for it


@contextmanager
def reading_at_most(seconds: float) -> Iterator[None]:
    """Bound how long the requests of a call wait for each next byte; threads of the SDK's own keep the default.

    :param seconds: brought between :data:`LEAST_READ_SECONDS` and :data:`READ_SECONDS`.
    """
    token = _read_seconds.set(min(READ_SECONDS, max(LEAST_READ_SECONDS, seconds)))
    try:
        yield
    finally:
        _read_seconds.reset(token)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a Retry-After header asks for, or ``None`` without one that can be read.

    :param headers: of the answer; the header is a number of seconds or a date.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()) if text else None
    except ValueError:
        return None


def _bounded_send(self: HTTPAdapter, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
    """Send as ever, and for the SDK once, with bounds, and with errors that it does not repeat."""
    if not _comes_from_the_sdk():
        return _send(self, request, *args, **kwargs)
    adapter = _connections.instead_of(self)
    kwargs["timeout"] = _bounded(kwargs.get("timeout"))
    where = _where(request)
    try:
        response = _send(adapter, request, *args, **kwargs)
    except requests.RequestException as error:
        raise UnansweredError(f"{where} got no answer: {_reason(error)}.") from error
    if response.status_code in PASSING_STATUSES:
        raise _refusal(where, response)
    return response


def _comes_from_the_sdk() -> bool:
    """Tell whether one of the bounded modules is among the callers, in whatever thread."""
    frame = inspect.currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(BOUNDED_MODULES):
            return True
        frame = frame.f_back
    return False


def _bounded(timeout: Any) -> tuple[float, float]:
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    longest = _read_seconds.get()
    return min(_number(connect, CONNECT_SECONDS), CONNECT_SECONDS), min(_number(read, longest), longest)


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


def _where(request: requests.PreparedRequest) -> str:
    """Say what was asked of whom, without the query, which may carry a signature, and without the workspace's long name."""
    url = urlsplit(request.url or "")
    return f"{request.method} {url.hostname}:{url.port or 443} {re.sub('/subscriptions/.+/workspaces/[^/]+', '/...', url.path)}"


def _reason(error: BaseException) -> str:
    """Return the innermost cause in the words of the operating system, where there are any."""
    inner: Any = error
    while True:
        deeper = getattr(inner, "reason", None)
        if not isinstance(deeper, BaseException):
            deeper = next((one for one in getattr(inner, "args", ()) if isinstance(one, BaseException)), None)
        if deeper is None:
            return (str(inner).rpartition(">: ")[2] or type(inner).__name__).rstrip(".")
        inner = deeper


def _refusal(where: str, response: requests.Response) -> UnansweredError:
    try:
        content = json.loads(response.raw.read(LARGEST_ERROR, decode_content=True))
        error = content.get("error") if isinstance(content, dict) else None
    except (ValueError, OSError, HTTPError):
        error = None  # the status says enough
    finally:
        response.close()
    said = error if isinstance(error, dict) else {}
    message = str(said.get("message") or f"{where} was answered with {response.status_code} {response.reason}.")
    code = said.get("code")
    return UnansweredError(
        message, response.status_code, code if isinstance(code, str) else None, retry_after(response.headers)
    )


def _once(exec_func: Callable[[], Any], clean_up_func: Callable[[], None] | None = None, **_: Any) -> Any:
    try:
        return exec_func()
    finally:
        if clean_up_func is not None:
            clean_up_func()
