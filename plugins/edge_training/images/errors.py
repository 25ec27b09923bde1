"""The one place where a registry's refusals become errors of this project."""

from __future__ import annotations

import re

import requests

from edge_training.exceptions import ServiceError

SERVICE = "container registry"
REFUSED = frozenset({requests.codes.unauthorized, requests.codes.forbidden})
INSUFFICIENT_STORAGE = "INSUFFICIENT_STORAGE"
# A manifest is sent when all that it names is there. That the registry does not see it passes: the distribution registry empties the file
# that tells of a part for a moment when somebody else sends the same part, and what was collected as garbage is sent again by the next try.
PART_UNSEEN = "MANIFEST_BLOB_UNKNOWN"
# What registries say when their disk or quota is full, under a status that is also used for what may pass: the distribution registry
# answers 500 with the number of "no space left on device".
_FULL = re.compile(r"no space left|insufficient.storage|quota.{0,20}exceed|\"Err\":\s*28\b", re.IGNORECASE)


def refused_login(registry: str, origin: str, user: str, status: int, doing: str) -> ServiceError:
    """Return the error for a login that the registry does not accept.

    :param registry: the registry's address.
    :param origin: where the login comes from, such as ``"connection 'container_registry'"``.
    :param user: the user name.
    :param status: 401 or 403.
    :param doing: what was tried.
    """
    reason = "refused the user name or password" if status == requests.codes.unauthorized else "does not permit this"
    return ServiceError(
        f"Registry {registry} {reason} (HTTP {status}) of {origin}, user '{user}', while {doing}. "
        "Correct login and password there, or give the user the right to pull and push (for an Azure registry: AcrPush).",
        service=SERVICE,
        status=status,
        code="UNAUTHORIZED" if status == requests.codes.unauthorized else "DENIED",
        retryable=False,
    )


def from_response(registry: str, response: requests.Response, doing: str) -> ServiceError:
    """Return the error for an answer that was not expected.

    :param registry: the registry's address.
    :param response: its answer.
    :param doing: what was tried.
    """
    said = errors_of(response)
    code, message = next((one for one in said if one[0] == PART_UNSEEN), said[0] if said else ("", ""))
    if is_full(response):
        return ServiceError(
            f"Registry {registry} has no room left (HTTP {response.status_code}) while {doing}. Nothing points at what was sent so "
            "far. Delete old images there or give it more storage, then clear this task.",
            service=SERVICE,
            status=response.status_code,
            code=INSUFFICIENT_STORAGE,
            retryable=False,
        )
    told = f": {code} {message}".rstrip() if code or message else ""
    return ServiceError(
        f"Registry {registry} answered HTTP {response.status_code} while {doing}{told}.",
        service=SERVICE,
        status=response.status_code,
        code=code or None,
        retryable=True if code == PART_UNSEEN else None,
    )


def is_full(response: requests.Response) -> bool:
    """Tell whether a registry answers that its disk or quota is full.

    :param response: its answer.
    """
    if response.status_code == requests.codes.insufficient_storage:
        return True
    return response.status_code >= requests.codes.server_error and bool(_FULL.search(response.text[:4000]))


def errors_of(response: requests.Response) -> list[tuple[str, str]]:
    """Return code and message of each error in a registry's answer; none when it is no such answer.

    :param response: the answer.
    """
    try:
        told = response.json()["errors"]
        return [(str(error.get("code") or ""), str(error.get("message") or "")[:300]) for error in told]
    except (ValueError, LookupError, TypeError, AttributeError, requests.RequestException):
        return []


def from_exception(registry: str, error: requests.RequestException, doing: str, ca: str | None) -> ServiceError:
    """Return the error for a request that got no answer.

    :param registry: the registry's address.
    :param error: what ``requests`` raised.
    :param doing: what was tried.
    :param ca: path of the private CA, or ``None``.
    """
    if is_untrusted(error):
        which = f"the CA in '{ca}' (extra 'ca_certificate')" if ca else "the public CAs"
        return ServiceError(
            f"Registry {registry} shows a certificate that {which} did not sign. Set the connection's extra "
            "'ca_certificate' to the PEM file of the registry's CA, and use a host name that the certificate is for.",
            service=SERVICE,
            code="UntrustedCertificate",
            retryable=False,
        )
    return ServiceError(
        f"Registry {registry} did not answer while {doing} ({type(error).__name__}). "
        "Check that it runs and can be reached from this machine.",
        service=SERVICE,
    )


def is_untrusted(error: requests.RequestException) -> bool:
    """Tell whether a request failed because the server's certificate is not trusted.

    :param error: what ``requests`` raised.
    """
    return isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)
