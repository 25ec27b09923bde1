from __future__ import annotations

import inspect
import socket
import ssl
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core import exceptions as azure

from edge_training.hooks.blob_errors import BLOB_ERRORS, ROWS, BlobCall, map_blob_error

CALL = BlobCall("stack_hub_blob", "https://acct.blob.local.azurestack.external", "2019-07-07", "blob 'a.csv'")
SECRET = "sig=c2VjcmV0"


def sdk_exceptions() -> list[type[Exception]]:
    found = [kind for _, kind in inspect.getmembers(azure, inspect.isclass) if issubclass(kind, Exception)]
    return [kind for kind in found if kind.__module__ == azure.__name__]


def made(kind: type[Exception], text: str = "text") -> Exception:
    """Make an exception of the SDK however it wants to be made."""
    response = SimpleNamespace(
        request="GET x", status_code=None, reason=None, text=lambda: "{}", headers={}, history=[]
    )
    if issubclass(kind, azure.TooManyRedirectsError):
        return kind([])
    if issubclass(kind, (azure.StreamConsumedError, azure.StreamClosedError, azure.ResponseNotReadError)):
        return kind(response)
    if issubclass(kind, azure.ODataV4Error):
        return kind(response)
    return kind(text)


def answered(
    status: int, code: str | None = None, kind: type[azure.HttpResponseError] = azure.HttpResponseError, **more: Any
) -> Any:
    error = kind(
        message=f"https://host/a.csv?{SECRET} version" if more.get("version") else f"https://host/a.csv?{SECRET}"
    )
    error.status_code = status
    error.error_code = code  # type: ignore[attr-defined]  # the blob client adds it
    error.additional_info = more.get("details", {})  # type: ignore[attr-defined]  # likewise
    return map_blob_error(error, more.get("call", CALL))


def test_every_exception_of_the_sdk_has_its_row() -> None:
    kinds = sdk_exceptions()
    assert len(kinds) > 15
    assert set(kinds) == set(ROWS)


@pytest.mark.parametrize("kind", sdk_exceptions(), ids=lambda kind: kind.__name__)
def test_every_exception_of_the_sdk_becomes_ours_without_its_text(kind: type[Exception]) -> None:
    assert issubclass(kind, BLOB_ERRORS)
    error = map_blob_error(made(kind, f"url?{SECRET}"), CALL)
    assert error.service == "blob storage"
    assert "asked for blob 'a.csv'" in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, False), (403, False), (404, False), (409, False), (429, True), (500, True), (503, True)],
)
def test_the_status_tells_whether_to_try_again(status: int, retryable: bool) -> None:
    error = answered(status, "SomeCode")
    assert (error.status, error.code, error.retryable) == (status, "SomeCode", retryable)
    assert SECRET not in str(error)


def test_a_blob_that_changes_is_worth_another_try() -> None:
    error = answered(412, "ConditionNotMet", azure.ResourceModifiedError)
    assert error.retryable
    assert "changed while it was read" in str(error)


@pytest.mark.parametrize(
    "details",
    [
        {"details": {"headername": "x-ms-version"}},
        {"version": True},
    ],
)
def test_a_refused_version_is_told_with_the_setting_and_what_each_stack_hub_accepts(details: dict[str, Any]) -> None:
    text = str(answered(400, "InvalidHeaderValue", **details))
    for part in ("refuses API version 2019-07-07", "extra api_version", "2008", "2019-02-02", "2017-11-09"):
        assert part in text


def test_another_refused_header_is_not_taken_for_the_version() -> None:
    assert "API version" not in str(answered(400, "InvalidHeaderValue"))


def test_an_expired_sas_is_told_with_its_end() -> None:
    call = BlobCall("c", "https://x", "v", "blob 'a'", datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    assert "refused the SAS of connection 'c', which expired at 2026-01-02 03:04 UTC" in str(answered(403, call=call))


def test_a_valid_sas_that_is_refused_lacks_permissions() -> None:
    call = BlobCall("c", "https://x", "v", "blob 'a'", datetime.now(UTC) + timedelta(days=1))
    assert "needs permissions 'rl'" in str(answered(403, call=call))


@pytest.mark.parametrize(
    ("verify_code", "advice"),
    [
        (20, "set the extra ca_certificate of connection 'stack_hub_blob'"),
        (62, "for another name"),
        (64, "for another name"),
        (10, "expired"),
    ],
)
def test_a_certificate_that_is_refused_is_told_with_the_setting(verify_code: int, advice: str) -> None:
    cause = ssl.SSLCertVerificationError()
    cause.verify_code = verify_code
    error = map_blob_error(azure.ServiceRequestError("x", error=OSError("outer", cause)), CALL)
    assert advice in str(error)
    assert not error.retryable


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "unknown to DNS"),
        (ConnectionRefusedError(), "connection was refused"),
        (ConnectionResetError(), "connection was reset"),
        (ssl.SSLError("WRONG_VERSION_NUMBER"), "does not speak TLS"),
        (OSError("other"), "(ServiceRequestError)"),
    ],
)
def test_the_cause_of_no_answer_is_told(cause: Exception, words: str) -> None:
    error = map_blob_error(azure.ServiceRequestError("x", error=cause), CALL)
    assert words in str(error)
    assert error.retryable
