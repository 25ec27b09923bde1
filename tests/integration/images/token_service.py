"""A token service for the registry, with the exchange of an Azure Container Registry and a login service as Entra ID has one."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.integration.images.support import PASSWORD, USER, write_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TENANT, SECRET = "11111111-2222-3333-4444-555555555555", "the principal's secret"
_ENTRA_TOKEN = "a token of Entra ID"
_Answer = tuple[int, dict[str, Any]]


@dataclass
class TokenService:
    """A running token service.

    :param address: ``host:port``.
    :param folder: with its certificate, which also signs the tokens.
    :param lifetimes: of the next tokens, in seconds: what it says, and what is true; further ones last.
    :param scopes: the scopes of every request.
    :param refresh_tokens: those that are accepted.
    :param exchanges: how often a token of Entra ID was exchanged.
    :param knows_principal: whether the registry knows the service principal.
    :param busy: path → status that is answered there once.
    :param stays_busy: whether 503 is answered always.
    """

    address: str
    folder: Path
    lifetimes: list[tuple[int, int]] = field(default_factory=list)
    scopes: list[list[str]] = field(default_factory=list)
    refresh_tokens: set[str] = field(default_factory=set)
    exchanges: int = 0
    knows_principal: bool = True
    busy: dict[str, int] = field(default_factory=dict)
    stays_busy: bool = False

    def by_password(self, scopes: list[str], authorization: str | None) -> _Answer:
        """Answer as the protocol of the registry has it."""
        self.scopes.append(scopes)
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if authorization != expected:
            return 401, {"errors": [{"code": "UNAUTHORIZED"}]}
        said, true = self._lifetime()
        return 200, {"token": self._token(scopes, true), "expires_in": said}

    def by_form(self, path: str, form: dict[str, list[str]]) -> _Answer:
        """Answer as Entra ID and an Azure registry have it."""
        first = {name: values[0] for name, values in form.items()}
        if path == f"/{TENANT}/oauth2/v2.0/token":
            return self._entra(first)
        if path == "/oauth2/exchange":
            return self._exchange(first)
        self.scopes.append(form["scope"])
        if first["grant_type"] != "refresh_token" or first["refresh_token"] not in self.refresh_tokens:
            return 401, {"errors": [{"code": "UNAUTHORIZED"}]}
        # An Azure registry does not say how long its tokens last; they do themselves.
        return 200, {"access_token": self._token(form["scope"], self._lifetime()[1])}

    def _entra(self, form: dict[str, str]) -> _Answer:
        expected = {
            "grant_type": "client_credentials",
            "client_id": USER,
            "client_secret": SECRET,
            "scope": "https://containerregistry.azure.net/.default",
        }
        if form != expected:
            return 401, {"error": "invalid_client", "error_description": f"{form['client_secret']} is wrong"}
        return 200, {"access_token": _ENTRA_TOKEN, "expires_in": 3599}

    def _exchange(self, form: dict[str, str]) -> _Answer:
        expected = {
            "grant_type": "access_token",
            "service": "registry",
            "tenant": TENANT,
            "access_token": _ENTRA_TOKEN,
        }
        if form != expected or not self.knows_principal:
            return 401, {"errors": [{"code": "UNAUTHORIZED"}]}
        self.exchanges += 1
        token = secrets.token_hex()
        self.refresh_tokens.add(token)
        return 200, {"refresh_token": token}

    def _lifetime(self) -> tuple[int, int]:
        return self.lifetimes.pop(0) if self.lifetimes else (300, 300)

    def _token(self, scopes: list[str], seconds: int) -> str:
        certificate = x509.load_pem_x509_certificate((self.folder / "server.pem").read_bytes())
        chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        # The registry allows a minute for clocks that differ; who issued it says that it was good for five.
        issued = now - 390 if seconds < 0 else now
        claims = {"iss": "test", "sub": USER, "aud": "registry", "iat": issued, "nbf": now - 500, "access": access}
        claims |= {"exp": now + seconds, "jti": secrets.token_hex(4)}
        return jwt.encode(claims, (self.folder / "server.key").read_text(), "ES256", headers={"x5c": chain})


@contextlib.contextmanager
def run_token_service(folder: Path) -> Iterator[TokenService]:
    """Run the service until the block ends.

    :param folder: for its certificates.
    """
    _, certificate, key = write_certificates(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    running = TokenService(f"127.0.0.1:{server.server_address[1]}", folder)
    server.service = running  # type: ignore[attr-defined]  # the handler finds it there
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        self._answer(lambda service: service.by_password(scopes, self.headers.get("Authorization")))

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self._answer(lambda service: service.by_form(self.path, form))

    def _answer(self, find: Any) -> None:
        service: TokenService = self.server.service
        status, answer = service.busy.pop(self.path, 503 if service.stays_busy else 0), {}
        if not status:
            status, answer = find(service)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
