"""How a registry wants to be logged in to: Basic, or a Bearer token from its token service."""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

from edge_training.exceptions import ServiceError
from edge_training.images import errors

_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')
# A token is renewed this many seconds before it ends, so that it lasts for the request it is fetched for.
_MARGIN = 15
_SHORTEST_LIFE = 60


@dataclass(frozen=True)
class Challenge:
    """What a registry's ``WWW-Authenticate`` asks for.

    :param scheme: lower case: ``basic``, ``bearer`` or another one.
    :param parameters: such as ``realm`` and ``service``.
    """

    scheme: str
    parameters: dict[str, str]

    @classmethod
    def parse(cls, header: str) -> Challenge:
        """Read the header.

        :param header: its value, with one challenge.
        """
        scheme, _, rest = header.strip().partition(" ")
        parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}
        return cls(scheme.lower(), parameters)


class Login:
    """Logs in to one registry, by what it asks for.

    :param registry: the registry's address, for errors.
    :param user: user name; ``""`` for none.
    :param password: its password.
    :param origin: where both come from, for errors, such as ``"connection 'container_registry'"``.
    """

    def __init__(self, registry: str, user: str, password: str, origin: str) -> None:
        self.registry, self.user, self.origin = registry, user, origin
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""
        self._challenge: Challenge | None = None
        self._tokens: dict[str, tuple[str, float]] = {}

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
            return "Bearer " + self._token(session, challenge, scope, timeout)
        wants = "a user name and password" if challenge.scheme == "basic" else f"a login of kind '{challenge.scheme}'"
        raise ServiceError(
            f"Registry {self.registry} wants {wants}, which {self.origin} does not give. Fill in login and password there.",
            service=errors.SERVICE,
            status=requests.codes.unauthorized,
            retryable=False,
        )

    def forget(self, scope: str) -> bool:
        """Forget a token that the registry no longer accepts; tell whether there was one.

        :param scope: what it was fetched for.
        """
        return self._tokens.pop(scope, None) is not None

    def _token(self, session: requests.Session, challenge: Challenge, scope: str, timeout: tuple[float, float]) -> str:
        token, ends = self._tokens.get(scope, ("", 0.0))
        if time.monotonic() < ends:
            return token
        response = self._fetch(session, challenge, scope, timeout)
        doing = "asking its token service for a token"
        if response.status_code in {requests.codes.unauthorized, requests.codes.forbidden}:
            raise errors.refused_login(self.registry, self.origin, self.user, response.status_code, doing)
        if response.status_code != requests.codes.ok:
            raise errors.from_response(self.registry, response, doing)
        token, seconds = _read_token(response, self.registry)
        self._tokens[scope] = (token, time.monotonic() + max(seconds - _MARGIN, 0))
        return token

    def _fetch(
        self, session: requests.Session, challenge: Challenge, scope: str, timeout: tuple[float, float]
    ) -> requests.Response:
        realm = challenge.parameters.get("realm", "")
        if urlsplit(realm).scheme != "https":
            raise ServiceError(
                f"Registry {self.registry} sends its clients to '{realm}' for a token. "
                "The password is not sent there, for it is not https: correct the registry's settings.",
                service=errors.SERVICE,
                retryable=False,
            )
        query = {"service": challenge.parameters.get("service", ""), "scope": scope.split() or None}
        headers = {"Authorization": self._basic} if self._basic else {}
        return session.get(realm, params=query, headers=headers, timeout=timeout)


def _read_token(response: requests.Response, registry: str) -> tuple[str, float]:
    try:
        answer = response.json()
        token = answer.get("token") or answer.get("access_token")
        seconds = float(answer.get("expires_in") or _SHORTEST_LIFE)
    except (ValueError, AttributeError, TypeError):
        token, seconds = None, 0.0
    if not isinstance(token, str):
        raise ServiceError(
            f"The token service of registry {registry} answered without a token.",
            service=errors.SERVICE,
            retryable=False,
        )
    return token, seconds
