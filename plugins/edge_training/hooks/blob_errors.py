"""The one place where the errors of the blob store's SDK become this project's."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from azure.core import exceptions as azure

from edge_training.exceptions import ServiceError, is_retryable_status

SERVICE = "blob storage"
Cause = TypeVar("Cause", bound=BaseException)

# X509_V_ERR_* of OpenSSL.
_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH, _EXPIRED = 62, 64, 10

_API_VERSIONS = (
    "Stack Hub 2008 and later accepts up to 2019-07-07, Stack Hub 2005 up to 2019-02-02, older ones up to 2017-11-09 "
    "(too old for this client)"
)


@dataclass(frozen=True)
class BlobCall:
    """What was asked of the blob store, for the message of an error.

    :param conn_id: the Airflow connection.
    :param endpoint: the blob endpoint, without any permission.
    :param api_version: the version that was sent.
    :param what: the thing asked for, such as ``"container 'training-data'"``.
    :param sas_expiry: when the connection's SAS ends, or ``None``.
    """

    conn_id: str
    endpoint: str
    api_version: str
    what: str
    sas_expiry: datetime | None = None


@dataclass(frozen=True)
class _Row:
    """What an exception of the SDK means.

    :param happened: goes on after "blob storage at <endpoint> ... <what>".
    :param retryable: whether to try again, or ``None`` when the HTTP status decides.
    """

    happened: str
    retryable: bool | None = None


_NO_ANSWER = _Row("could not be reached", retryable=True)
_BROKEN_ANSWER = _Row("broke off its answer", retryable=True)
_TIMED_OUT = _Row("did not answer in time", retryable=True)
_UNREADABLE = _Row("answered with something that cannot be read", retryable=False)
_MISUSE = _Row("was asked in a way its client does not allow (a defect of this code)", retryable=False)
_REFUSED = _Row("refused the request")

ROWS: dict[type[Exception], _Row] = {
    azure.AzureError: _Row("failed", retryable=True),
    azure.ServiceRequestError: _NO_ANSWER,
    azure.ServiceRequestTimeoutError: _Row("could not be connected to in time", retryable=True),
    azure.ServiceResponseError: _BROKEN_ANSWER,
    azure.ServiceResponseTimeoutError: _TIMED_OUT,
    azure.HttpResponseError: _REFUSED,
    azure.ClientAuthenticationError: _REFUSED,
    azure.ResourceExistsError: _Row("found that it exists already"),
    azure.ResourceNotFoundError: _Row("does not have it"),
    azure.ResourceModifiedError: _Row(
        "found it changed while it was read: try again when its upload is over", retryable=True
    ),
    azure.ResourceNotModifiedError: _Row("found it unchanged"),
    azure.TooManyRedirectsError: _Row("redirected too often: is the endpoint a blob endpoint?", retryable=False),
    azure.ODataV4Error: _REFUSED,
    azure.DecodeError: _UNREADABLE,
    azure.IncompleteReadError: _BROKEN_ANSWER,
    azure.StreamConsumedError: _MISUSE,
    azure.StreamClosedError: _MISUSE,
    azure.ResponseNotReadError: _MISUSE,
    azure.SerializationError: _MISUSE,
    azure.DeserializationError: _UNREADABLE,
}
BLOB_ERRORS = (azure.AzureError, azure.SerializationError, azure.DeserializationError)


def map_blob_error(error: Exception, call: BlobCall) -> ServiceError:
    """Return this project's error for one of the SDK's; its message carries no key, SAS or text of the SDK.

    :param error: what the SDK raised, one of ``BLOB_ERRORS``.
    :param call: what was asked.
    """
    if isinstance(error, azure.HttpResponseError) and error.status_code:
        return _answered(error, call)
    if certificate := _cause(error, ssl.SSLCertVerificationError):
        return _failure(call, _certificate_advice(certificate, call), retryable=False)
    row = _row(error)
    return _failure(call, f"{row.happened}{_network_cause(error)}", retryable=bool(row.retryable))


def _answered(error: azure.HttpResponseError, call: BlobCall) -> ServiceError:
    status, code = error.status_code or 0, _code(error)
    row = _row(error)
    retryable = is_retryable_status(status) if row.retryable is None else row.retryable
    if _is_version_refused(error, code):
        happened = f"refuses API version {call.api_version}: set the extra api_version of connection '{call.conn_id}'; {_API_VERSIONS}"
    elif status in {401, 403}:
        happened = _refused_advice(call)
    elif status == 404:
        happened = "does not have it: check its name and the site's settings"
    else:
        happened = row.happened
    return _failure(
        call, f"{happened} (HTTP {status}{f', {code}' if code else ''})", status=status, code=code, retryable=retryable
    )


def _failure(
    call: BlobCall, happened: str, *, retryable: bool, status: int | None = None, code: str | None = None
) -> ServiceError:
    message = f"Blob storage at {call.endpoint}, asked for {call.what}, {happened}."
    return ServiceError(message, service=SERVICE, status=status, code=code, retryable=retryable)


def _row(error: Exception) -> _Row:
    return next(ROWS[kind] for kind in type(error).__mro__ if kind in ROWS)


def _code(error: azure.HttpResponseError) -> str | None:
    code = getattr(error, "error_code", None)
    if code is None and error.response is not None:
        code = getattr(error.response, "headers", {}).get("x-ms-error-code")
    return str(getattr(code, "value", code)) if code else None


def _is_version_refused(error: azure.HttpResponseError, code: str | None) -> bool:
    if error.status_code != 400 or code not in {"InvalidHeaderValue", "InvalidQueryParameterValue"}:
        return False
    details = getattr(error, "additional_info", {})
    names = {details.get("headername"), details.get("queryparametername")}
    return bool(names & {"x-ms-version", "sv"}) or "version" in error.message.lower()


def _refused_advice(call: BlobCall) -> str:
    if call.sas_expiry is None:
        return (
            f"refused the credential of connection '{call.conn_id}': check the account key (or SAS) there; "
            "after a key rotation copy the new key"
        )
    when = f"{call.sas_expiry:%Y-%m-%d %H:%M} UTC"
    if call.sas_expiry <= datetime.now(UTC):
        return f"refused the SAS of connection '{call.conn_id}', which expired at {when}: make a new one"
    return f"refused the SAS of connection '{call.conn_id}' (valid until {when}): it needs permissions 'rl' on the container"


def _certificate_advice(certificate: ssl.SSLCertVerificationError, call: BlobCall) -> str:
    if certificate.verify_code in {_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH}:
        return (
            f"showed a certificate for another name: correct the host of connection '{call.conn_id}', or have the "
            "Stack Hub's certificate reissued"
        )
    if certificate.verify_code == _EXPIRED:
        return "showed a certificate that has expired: have the Stack Hub's certificate renewed"
    return (
        f"showed a certificate that is signed by an unknown authority: set the extra ca_certificate of connection "
        f"'{call.conn_id}' to the PEM file of the Stack Hub's root certificate"
    )


def _network_cause(error: Exception) -> str:
    """Name the cause in our own words: the SDK's text repeats the address with its permission."""
    if _cause(error, socket.gaierror) or _named_cause(error, "NameResolutionError"):
        return ": its host name is unknown to DNS here"
    if _cause(error, ConnectionRefusedError):
        return ": the connection was refused, so nothing listens there"
    if _cause(error, ConnectionResetError):
        return ": the connection was reset"
    if _cause(error, ssl.SSLError):
        return ": it does not speak TLS there"
    return f" ({type(error).__name__})"


def _chain(error: BaseException) -> list[BaseException]:
    """List an exception and all that it was made of, however the libraries below nest them."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [
                one.__cause__,
                one.__context__,
                getattr(one, "inner_exception", None),
                getattr(one, "reason", None),
            ]
            waiting += list(one.args)
    return found


def _cause(error: BaseException, kind: type[Cause]) -> Cause | None:
    return next((one for one in _chain(error) if isinstance(one, kind)), None)


def _named_cause(error: BaseException, name: str) -> bool:
    return any(type(one).__name__ == name for one in _chain(error))
