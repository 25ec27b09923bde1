"""How a registry wants to be logged in to: Basic, or a Bearer token from its token service."""

from __future__ import annotations

import base64
import threading
import time
from urllib.parse import urlsplit

import requests

from edge_training.exceptions import ServiceError
from edge_training.images import errors
from edge_training.images.entra import EntraTokens, ServicePrincipal
from edge_training.images.tokens import MARGIN, Challenge, PasswordTokens, TokenSource, read_token


class Login:
    """Logs in to one registry, by what it asks for. Threads may share it.

    :param registry: the registry's address, for errors.
    :param user: user name; ``""`` for none.
    :param password: its password.
    :param origin: where both come from, for errors, such as ``"connection 'container_registry'"``.
    :param principal: the service principal whose token of Entra ID is exchanged, instead of user name and password.
    """

    def __init__(
        self, registry: str, user: str, password: str, origin: str, principal: ServicePrincipal | None = None
    ) -> None:
        self.registry, self.origin = registry, origin
        self.user = principal.client_id if principal else user
        has_password = bool(user) and principal is None
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() if has_password else ""
        self._source: TokenSource = (
            EntraTokens(registry, principal, origin) if principal else PasswordTokens(self._basic)
        )
        self._challenge: Challenge | None = None
        self._tokens: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    @property
    def learned(self) -> bool:
        """Tell whether the registry has been asked what it wants."""
        return self._challenge is not None

    def learn(self, header: str) -> None:
        """Remember what the registry asks for.

        :param header: the ``WWW-Authenticate`` of its answer, ``""`` when it let us in without a login.
        """
        self._challenge = Challenge.parse(header)

    def header(self, session: requests.Session, scope: str, timeout: tuple[float, float]) -> str:
        """Return the ``Authorization`` header for a request, ``""`` for none.

        :param session: the session that fetches a token.
        :param scope: what the token must permit, such as ``repository:models/a:pull,push``.
        :param timeout: seconds to connect and to wait for an answer.
        :raises ServiceError: when the registry wants a login that we do not have, or refuses ours.
        """
        challenge = self._challenge
        if challenge is None or not challenge.scheme:
            return ""
        if challenge.scheme == "basic" and self._basic:
            return self._basic
        if challenge.scheme == "bearer":
            # One at a time, so that a token that several threads need is fetched once.
            with self._lock:
                return "Bearer " + self._token(session, challenge, scope, timeout)
        wants = "a user name and password" if challenge.scheme == "basic" else f"a login of kind '{challenge.scheme}'"
        raise ServiceError(
            f"Registry {self.registry} wants {wants}, which {self.origin} does not give. Fill in login and password there.",
            service=errors.SERVICE,
            status=requests.codes.unauthorized,
            retryable=False,
        )

    def forget(self, scope: str, header: str) -> bool:
        """Forget a token that the registry no longer accepts; tell whether another one may be fetched.

        :param scope: what it was fetched for.
        :param header: the ``Authorization`` that was refused.
        """
        scheme, _, token = header.partition(" ")
        with self._lock:
            # Another thread may have fetched the next one already.
            if self._tokens.get(scope, ("", 0.0))[0] == token:
                del self._tokens[scope]
        return scheme == "Bearer"

    def _token(self, session: requests.Session, challenge: Challenge, scope: str, timeout: tuple[float, float]) -> str:
        token, ends = self._tokens.get(scope, ("", 0.0))
        if time.monotonic() < ends:
            return token
        self._check_realm(challenge)
        response = self._source.fetch(session, challenge, scope.split(), timeout)
        doing = "asking its token service for a token"
        if response.status_code in errors.REFUSED:
            raise errors.refused_login(self.registry, self.origin, self.user, response.status_code, doing)
        if response.status_code != requests.codes.ok:
            raise errors.from_response(self.registry, response, doing)
        token, seconds = read_token(response, self.registry, "token", "access_token")
        self._tokens[scope] = (token, time.monotonic() + max(seconds - MARGIN, 0))
        return token

    def _check_realm(self, challenge: Challenge) -> None:
        if urlsplit(challenge.realm).scheme != "https":
            raise ServiceError(
                f"Registry {self.registry} sends its clients to '{challenge.realm}' for a token. "
                "The password is not sent there, for it is not https: correct the registry's settings.",
                service=errors.SERVICE,
                retryable=False,
            )
