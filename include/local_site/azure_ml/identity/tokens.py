"""Tokens that mean something: signed, for this server, for a time, for a client or for one run."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt

from local_site.azure_ml.errors import UnauthorizedError

if TYPE_CHECKING:
    from local_site.azure_ml.control.state import Kept
    from local_site.azure_ml.settings import Settings

ALGORITHM = "HS256"


@dataclass(frozen=True)
class Caller:
    """Who a request comes from.

    :param name: the client's id.
    :param run_id: the run whose token it is, or ``""`` for a client that logged in itself.
    """

    name: str
    run_id: str = ""


@dataclass(frozen=True)
class Token:
    """A signed token.

    :param text: what goes into the Authorization header.
    :param expires: seconds since 1970.
    """

    text: str
    expires: int


class Tokens:
    """Signs and checks tokens.

    :param settings: the signing key, the audience and how long tokens are good.
    :param kept: where changes of that are written down.
    """

    def __init__(self, settings: Settings, kept: Kept) -> None:
        self._settings = settings
        self._kept = kept
        wish = kept.get("tokens", {})
        self.client_seconds = int(wish.get("client_seconds", settings.token_seconds))
        self.run_seconds = int(wish.get("run_seconds", settings.run_token_seconds))
        self._generation = int(wish.get("generation", 0))

    def change(self, client_seconds: int | None, run_seconds: int | None, *, revoke: bool) -> dict[str, Any]:
        """Change how long tokens are good that are given from now on, until the next change.

        :param revoke: whether every token that was given so far is expired from now on.
        """
        self.client_seconds = client_seconds or self.client_seconds
        self.run_seconds = run_seconds or self.run_seconds
        self._generation += revoke
        wish = {"client_seconds": self.client_seconds, "run_seconds": self.run_seconds}
        self._kept.set("tokens", {**wish, "generation": self._generation})
        return wish

    def reset(self) -> None:
        """Forget what was changed; what was revoked stays so."""
        self.client_seconds, self.run_seconds = self._settings.token_seconds, self._settings.run_token_seconds
        self._kept.set("tokens", {"generation": self._generation})

    def for_client(self) -> Token:
        """Sign a token for the service principal."""
        return self._sign("", self.client_seconds)

    def for_run(self, run_id: str) -> Token:
        """Sign a token that is good for one run only."""
        return self._sign(run_id, self.run_seconds)

    def check(self, header: str) -> Caller:
        """Return who an Authorization header belongs to.

        :raises UnauthorizedError: when it is missing, expired, for another server, or not signed here.
        """
        kind, _, text = header.partition(" ")
        if kind.lower() != "bearer" or not text:
            raise UnauthorizedError("The request has no bearer token; log in at the authority first.")
        key = bytes.fromhex(self._settings.signing_key)
        audience = self._settings.base_url
        required = ["exp", "aud", "appid", "gen"]
        try:
            claims = jwt.decode(text, key, algorithms=[ALGORITHM], audience=audience, options={"require": required})
        except jwt.ExpiredSignatureError as error:
            raise UnauthorizedError(
                "The access token has expired; log in again.", code="ExpiredAuthenticationToken"
            ) from error
        except jwt.InvalidTokenError as error:
            raise UnauthorizedError(
                f"The access token is not valid here: {error}.", code="InvalidAuthenticationToken"
            ) from error
        if claims["gen"] != self._generation:
            raise UnauthorizedError("The access token was revoked; log in again.", code="ExpiredAuthenticationToken")
        return Caller(str(claims["appid"]), str(claims.get("run_id", "")))

    def _sign(self, run_id: str, seconds: int) -> Token:
        now = int(time.time())
        claims = {
            "aud": self._settings.base_url,
            "iss": f"{self._settings.base_url}/{self._settings.tenant_id}",
            "tid": self._settings.tenant_id,
            "appid": self._settings.client_id,
            "iat": now,
            "exp": now + seconds,
            "jti": uuid.uuid4().hex,
            "gen": self._generation,
        }
        if run_id:
            claims["run_id"] = run_id
        return Token(jwt.encode(claims, bytes.fromhex(self._settings.signing_key), algorithm=ALGORITHM), now + seconds)
