"""The registry with a token service, as hosted registries have one."""

from __future__ import annotations

import base64
import io
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from edge_training.exceptions import ServiceError
from edge_training.images.media_types import Descriptor
from tests.integration.images.support import PASSWORD, USER, Registry, push_base, run_registry, write_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class TokenService:
    """A running token service.

    :param address: ``host:port``.
    :param folder: with its certificate, which also signs the tokens.
    :param lifetime: of tokens, in seconds; what it says, and what is true.
    :param scopes: the scopes of every request.
    """

    address: str
    folder: Path
    lifetime: tuple[int, int] = (300, 300)
    scopes: list[list[str]] = field(default_factory=list)

    def token(self, scopes: list[str]) -> str:
        certificate = x509.load_pem_x509_certificate((self.folder / "server.pem").read_bytes())
        chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        # The registry allows a minute for clocks that differ.
        claims = {"iss": "test", "sub": USER, "aud": "registry", "iat": now, "nbf": now - 120, "access": access}
        claims |= {"exp": now + self.lifetime[1], "jti": str(len(self.scopes))}
        return jwt.encode(claims, (self.folder / "server.key").read_text(), "ES256", headers={"x5c": chain})


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        service: TokenService = self.server.service
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        service.scopes.append(scopes)
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            status, answer = 401, {"errors": [{"code": "UNAUTHORIZED"}]}
        else:
            status, answer = 200, {"token": service.token(scopes), "expires_in": service.lifetime[0]}  # type: ignore[dict-item]  # two kinds of answer
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TokenService]:
    folder = tmp_path / "tokens"
    folder.mkdir()
    _, certificate, key = write_certificates(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    running = TokenService(f"127.0.0.1:{server.server_address[1]}", folder)
    server.service = running  # type: ignore[attr-defined]  # the handler finds it there
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def token_registry(service: TokenService, tmp_path: Path) -> Iterator[Registry]:
    folder = tmp_path / "registry"
    folder.mkdir()
    auth = {
        "token": {
            "realm": f"https://{service.address}/token",
            "service": "registry",
            "issuer": "test",
            "rootcertbundle": str(service.folder / "ca.pem"),
        }
    }
    with run_registry(folder, auth=auth) as running:
        # Registry and token service are signed by two CAs; the client is told both in one file, as an organisation's bundle has them.
        bundle = tmp_path / "bundle.pem"
        bundle.write_bytes(running.ca.read_bytes() + (service.folder / "ca.pem").read_bytes())
        yield Registry(running.address, bundle, running.data)


def test_an_image_is_pushed_with_tokens_that_are_fetched_once_per_scope(
    token_registry: Registry, service: TokenService
) -> None:
    with token_registry.client() as client:
        digest = push_base(client, "base/python:1", {"f": b"x"})
        assert client.find_digest("base/python", "1") == digest
    asked = [scope for scopes in service.scopes for scope in scopes]
    assert asked == ["repository:base/python:pull,push", "repository:base/python:pull"]


def test_a_mount_asks_for_both_repositories_in_one_token(token_registry: Registry, service: TokenService) -> None:
    with token_registry.client() as client:
        client.put_blob("base/python", Descriptor.of_bytes("", b"layer"), lambda: io.BytesIO(b"layer"))
        assert client.mount_blob("models/a", Descriptor.of_bytes("", b"layer").digest, "base/python")
    assert service.scopes[-1] == ["repository:models/a:pull,push", "repository:base/python:pull"]


def test_a_token_that_ended_early_is_fetched_again(token_registry: Registry, service: TokenService) -> None:
    service.lifetime = (300, -90)
    with token_registry.client() as client:
        with pytest.raises(ServiceError) as caught:
            client.find_manifest("a/b", "1")
        assert caught.value.status == 401
        service.lifetime = (300, 300)
        assert client.find_manifest("a/b", "1") is None
    assert len(service.scopes) == 3


def test_a_password_that_the_token_service_refuses_names_the_connection(token_registry: Registry) -> None:
    with token_registry.client(password="guessed") as client, pytest.raises(ServiceError, match="'test'") as caught:
        client.find_manifest("a/b", "1")
    assert (caught.value.status, caught.value.retryable) == (401, False)
