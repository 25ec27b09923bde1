"""One request to a registry: logged in, bounded in time, tried again where that can help."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from edge_training.exceptions import ConfigurationError, ServiceError, is_retryable_status
from edge_training.images import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from edge_training.images.auth import Login

# Blobs are sent side by side, but a registry that is shared is not flooded.
CONNECTIONS = 4
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Patience:
    """How long a request is waited for and how often it is tried.

    :param tries: how often at most.
    :param first_wait: seconds before the second try; each further wait is twice as long.
    :param longest_wait: seconds that no wait exceeds, whatever the registry asks for.
    :param connect: seconds to connect.
    :param read: seconds between two pieces of an answer.
    """

    tries: int = 4
    first_wait: float = 0.5
    longest_wait: float = 30.0
    connect: float = 10.0
    read: float = 60.0

    @property
    def timeout(self) -> tuple[float, float]:
        """Return both time limits as ``requests`` wants them."""
        return self.connect, self.read

    def attempts(self, tries: int | None = None) -> Iterator[Attempt]:
        """Yield the tries one after the other.

        :param tries: how often at most, when it is not ``self.tries``.
        """
        limit = tries or self.tries
        for number in range(limit):
            wait = min(self.first_wait * 2.0**number, self.longest_wait)
            yield Attempt(last=number + 1 == limit, seconds=wait, longest=self.longest_wait)


@dataclass(frozen=True)
class Attempt:
    """One try of something.

    :param last: whether no other one follows.
    :param seconds: how long to wait before the next one.
    :param longest: seconds that the wait does not exceed, whatever the registry asks for.
    """

    last: bool
    seconds: float
    longest: float

    def wait(self, headers: Mapping[str, str] | None = None) -> None:
        """Wait before the next try.

        :param headers: those of the registry's answer; its ``Retry-After`` counts.
        """
        asked = _seconds_asked((headers or {}).get("Retry-After", ""))
        time.sleep(min(self.seconds if asked is None else asked, self.longest))


def _seconds_asked(retry_after: str) -> float | None:
    """Return what a ``Retry-After`` asks for, a number of seconds or a date; ``None`` when it is neither."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return None


class _Adapter(HTTPAdapter):
    """Keeps a connection per thread, and hands bodies to the socket in large pieces."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, blocksize=_BLOCK)


class Transport:
    """Sends requests to one registry. Threads may share it.

    :param registry: ``host`` or ``host:port``; always spoken to over https.
    :param login: how to log in.
    :param ca_certificate: PEM file of the CA that signed the registry's certificate; ``None`` for the public CAs.
    :param patience: time limits and tries.
    :raises ConfigurationError: when the PEM file does not exist.
    """

    def __init__(self, registry: str, login: Login, ca_certificate: Path | None, patience: Patience) -> None:
        if ca_certificate is not None and not ca_certificate.is_file():
            raise ConfigurationError(
                f"The CA certificate '{ca_certificate}' of {login.origin} does not exist on this machine: "
                "correct the extra 'ca_certificate'."
            )
        self.registry = registry
        self.patience = patience
        self._login = login
        self._ca = str(ca_certificate) if ca_certificate else None
        self._session = requests.Session()
        # Otherwise REQUESTS_CA_BUNDLE and ~/.netrc of the worker would override the connection's settings.
        self._session.trust_env = False
        self._session.verify = self._ca or True
        self._session.mount("https://", _Adapter(pool_maxsize=CONNECTIONS))
        self._first = threading.Lock()

    def url(self, location: str) -> str:
        """Return the address of a path of the registry, or of what it answered as ``Location``.

        :param location: absolute or relative.
        """
        return urljoin(f"https://{self.registry}/", location)

    def send(
        self,
        method: str,
        location: str,
        *,
        doing: str,
        expect: frozenset[int],
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
        stream: bool = False,
        tries: int | None = None,
    ) -> requests.Response:
        """Send one request until it is answered as expected or trying again cannot help.

        :param method: HTTP method.
        :param location: path, or address that the registry answered.
        :param doing: what this is for, for errors, such as ``"asking for image a:b"``.
        :param expect: statuses that are returned to the caller.
        :param scope: what a token must permit.
        :param headers: further headers.
        :param body: returns the body; called anew for each try.
        :param stream: whether the answer's body is left to be read piece by piece.
        :param tries: how often at most, when it is not what ``patience`` says.
        :raises ServiceError: when no expected answer came.
        """
        for attempt in self.patience.attempts(tries):
            try:
                response = self._attempt(method, location, scope, headers, body, doing, stream=stream)
            except requests.RequestException as error:
                if errors.is_untrusted(error) or attempt.last:
                    raise errors.from_exception(self.registry, error, doing, self._ca) from error
                attempt.wait()
                continue
            except ServiceError as error:
                # The token service's.
                if not error.retryable or attempt.last:
                    raise
                attempt.wait()
                continue
            if response.status_code in expect:
                return response
            failure = errors.from_response(self.registry, response, doing)
            if not failure.retryable or attempt.last:
                raise failure
            response.close()
            attempt.wait(response.headers)
        raise AssertionError("unreachable: the last try returns or raises")

    def _attempt(
        self,
        method: str,
        location: str,
        scope: str,
        headers: Mapping[str, str] | None,
        body: Callable[[], Any] | None,
        doing: str,
        *,
        stream: bool,
    ) -> requests.Response:
        """Send a request once; a second time only when the token has ended meanwhile."""
        self._ask_what_it_wants()
        for renewed in (False, True):
            authorization = self._authorization(location, scope)
            response = self._session.request(
                method,
                self.url(location),
                headers={**(headers or {}), **authorization},
                data=body() if body else None,
                timeout=self.patience.timeout,
                stream=stream,
            )
            if response.status_code not in errors.REFUSED:
                break
            response.close()
            ended = response.status_code == requests.codes.unauthorized
            if renewed or not ended or not self._login.forget(scope, authorization.get("Authorization", "")):
                login = self._login
                raise errors.refused_login(self.registry, login.origin, login.user, response.status_code, doing)
        return response

    def _ask_what_it_wants(self) -> None:
        """Learn how to log in before any body is sent, so that none is sent in vain."""
        with self._first:
            if self._login.learned:
                return
            response = self._session.get(self.url("/v2/"), timeout=self.patience.timeout)
            if is_retryable_status(response.status_code):
                raise requests.ConnectionError(f"HTTP {response.status_code}")
            self._login.learn(response.headers.get("WWW-Authenticate", ""))

    def _authorization(self, location: str, scope: str) -> dict[str, str]:
        # An address on another host (the registry's own storage) carries its permission in itself.
        if urlsplit(self.url(location)).netloc != self.registry:
            return {}
        header = self._login.header(self._session, scope, self.patience.timeout)
        return {"Authorization": header} if header else {}

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
