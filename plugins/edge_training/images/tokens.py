"""What a registry asks for, and the answers of token services."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edge_training.exceptions import ServiceError
from edge_training.images import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import requests

# A token is renewed this many seconds before it ends, so that it lasts for the request it is fetched for.
MARGIN = 15
_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')
# What the protocol says of a token whose answer does not tell.
_SHORTEST_LIFE = 60.0


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

    @property
    def realm(self) -> str:
        """Return the address of the token service."""
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        """Return what the token service calls the registry."""
        return self.parameters.get("service", "")


class TokenSource(Protocol):
    """Asks a token service for an access token."""

    def fetch(
        self, session: requests.Session, challenge: Challenge, scopes: Sequence[str], timeout: tuple[float, float]
    ) -> requests.Response:
        """Return the token service's answer.

        :param session: sends the request.
        :param challenge: what the registry asks for.
        :param scopes: what the token must permit.
        :param timeout: seconds to connect and to wait for an answer.
        """
        ...


@dataclass(frozen=True)
class PasswordTokens:
    """Asks with a user name and password, as the protocol has it; a :class:`TokenSource`.

    :param authorization: the ``Authorization`` header, ``""`` to ask without a login.
    """

    authorization: str

    def fetch(
        self, session: requests.Session, challenge: Challenge, scopes: Sequence[str], timeout: tuple[float, float]
    ) -> requests.Response:
        """Return the token service's answer."""
        query = {"service": challenge.service, "scope": list(scopes) or None}
        headers = {"Authorization": self.authorization} if self.authorization else {}
        return session.get(challenge.realm, params=query, headers=headers, timeout=timeout)


def read_token(response: requests.Response, registry: str, *names: str) -> tuple[str, float]:
    """Return the token of an answer, and for how many seconds it is good.

    :param response: the answer of a token service.
    :param registry: the registry's address, for the error.
    :param names: the fields that the token may stand in.
    :raises ServiceError: when there is none.
    """
    try:
        answer = response.json()
        token = next((answer[name] for name in names if answer.get(name)), None)
        seconds = float(answer.get("expires_in") or 0)
    except (ValueError, AttributeError, TypeError):
        token, seconds = None, 0.0
    if not isinstance(token, str):
        raise ServiceError(
            f"The token service of registry {registry} answered without a token.",
            service=errors.SERVICE,
            retryable=False,
        )
    return token, seconds or _told_by_itself(token) or _SHORTEST_LIFE


def _told_by_itself(token: str) -> float:
    """Return the seconds from a JSON web token's beginning to its end, 0 when it does not tell."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return max(float(claims["exp"]) - float(claims["iat"]), 0.0)
    except (LookupError, ValueError, TypeError, binascii.Error):
        return 0.0
