"""The login of an Azure Container Registry for a service principal of Entra ID.

Entra ID gives the principal a token; the registry exchanges it for a refresh token of its own (``/oauth2/exchange``), and that for an
access token per scope (``/oauth2/token``). Documented in github.com/Azure/acr, ``docs/AAD-OAuth.md``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from edge_training.exceptions import ServiceError, is_retryable_status
from edge_training.images import errors
from edge_training.images.tokens import MARGIN, Challenge, read_token

if TYPE_CHECKING:
    from collections.abc import Sequence

PUBLIC_AUTHORITY = "https://login.microsoftonline.com"
# Also accepted by registries that no longer take tokens for Azure Resource Manager.
_AUDIENCE = "https://containerregistry.azure.net/.default"


@dataclass(frozen=True)
class ServicePrincipal:
    """Who logs in.

    :param tenant: id or domain of the tenant.
    :param client_id: id of the application.
    :param client_secret: its secret.
    :param authority: address of the login service; other clouds have one of their own.
    """

    tenant: str
    client_id: str
    client_secret: str = field(repr=False)
    authority: str = PUBLIC_AUTHORITY


class EntraTokens:
    """Fetches access tokens of one registry; a :class:`~edge_training.images.tokens.TokenSource`.

    :param registry: the registry's address, for errors.
    :param principal: who logs in.
    :param origin: where that comes from, for errors.
    """

    def __init__(self, registry: str, principal: ServicePrincipal, origin: str) -> None:
        self._registry, self._principal, self._origin = registry, principal, origin
        self._refresh, self._ends = "", 0.0

    def fetch(
        self, session: requests.Session, challenge: Challenge, scopes: Sequence[str], timeout: tuple[float, float]
    ) -> requests.Response:
        """Ask for a token; a refresh token that is no longer accepted is exchanged anew first.

        :param session: sends the requests.
        :param challenge: what the registry asks for.
        :param scopes: what the token must permit.
        :param timeout: seconds to connect and to wait for an answer.
        :raises ServiceError: when Entra ID or the exchange refuses the principal.
        """
        response = self._ask(session, challenge, scopes, timeout)
        if response.status_code in errors.REFUSED:
            self._refresh = ""
            response = self._ask(session, challenge, scopes, timeout)
        return response

    def _ask(
        self, session: requests.Session, challenge: Challenge, scopes: Sequence[str], timeout: tuple[float, float]
    ) -> requests.Response:
        form = [("grant_type", "refresh_token"), ("service", challenge.service)]
        form += [("scope", scope) for scope in scopes]
        form += [("refresh_token", self._refresh_token(session, challenge, timeout))]
        return session.post(challenge.realm, data=form, timeout=timeout)

    def _refresh_token(self, session: requests.Session, challenge: Challenge, timeout: tuple[float, float]) -> str:
        if not self._refresh or time.monotonic() >= self._ends:
            form = {
                "grant_type": "access_token",
                "service": challenge.service,
                "tenant": self._principal.tenant,
                "access_token": self._entra_token(session, timeout),
            }
            url = challenge.realm.removesuffix("/token") + "/exchange"
            doing = "exchanging the token of Entra ID"
            response = session.post(url, data=form, timeout=timeout)
            if response.status_code in errors.REFUSED:
                raise errors.refused_login(
                    self._registry, self._origin, self._principal.client_id, response.status_code, doing
                )
            if response.status_code != requests.codes.ok:
                raise errors.from_response(self._registry, response, doing)
            self._refresh, seconds = read_token(response, self._registry, "refresh_token")
            self._ends = time.monotonic() + max(seconds - MARGIN, 0)
        return self._refresh

    def _entra_token(self, session: requests.Session, timeout: tuple[float, float]) -> str:
        principal = self._principal
        url = f"{principal.authority.rstrip('/')}/{principal.tenant}/oauth2/v2.0/token"
        form = {
            "grant_type": "client_credentials",
            "client_id": principal.client_id,
            "client_secret": principal.client_secret,
            "scope": _AUDIENCE,
        }
        response = session.post(url, data=form, timeout=timeout)
        if response.status_code != requests.codes.ok:
            raise self._refused_by_entra(response)
        return read_token(response, self._registry, "access_token")[0]

    def _refused_by_entra(self, response: requests.Response) -> ServiceError:
        try:
            code = str(response.json().get("error") or "")
        except (ValueError, AttributeError):
            code = ""
        host = urlsplit(self._principal.authority).netloc
        return ServiceError(
            f"Entra ID at {host} gave the service principal '{self._principal.client_id}' of {self._origin} no token for "
            f"registry {self._registry}: HTTP {response.status_code} {code}. Check login (the client id), password "
            "(a secret that has not ended) and the extra 'tenant_id' there.",
            service=errors.SERVICE,
            status=response.status_code,
            code=code or None,
            retryable=is_retryable_status(response.status_code),
        )
