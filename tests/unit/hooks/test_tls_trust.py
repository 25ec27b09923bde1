"""Connections that share what they trust: no less is checked, a changed file is read anew, and what cannot be shared stays as it was."""

from __future__ import annotations

import http.server
import os
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest
import requests
from requests.adapters import HTTPAdapter

from edge_training.hooks import tls_trust
from edge_training.hooks.tls_trust import SharedTrustAdapter, context_for, read_certificates
from local_site import certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    certificates.ensure(folder)
    return folder


@pytest.fixture(scope="module")
def url(tls: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.pem", tls / "server.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_trust, "_contexts", {})


def get(url: str, verify: bool | str, adapter: HTTPAdapter | None = None) -> int:
    """Ask over a connection of its own."""
    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", adapter or SharedTrustAdapter())
        return session.get(url, verify=verify, timeout=10).status_code


def test_a_file_that_has_not_changed_is_read_once_for_all_connections(url: str, tls: Path, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes((tls / "ca.pem").read_bytes())
    before = trusted.stat()
    assert get(url, str(trusted)) == 200
    # Whoever reads this fails; nothing says that it is another file.
    trusted.write_bytes(b"x" * before.st_size)
    os.utime(trusted, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [get(url, str(trusted)) for _ in range(2)] == [200, 200]


def test_a_server_that_another_authority_vouches_for_is_refused(url: str, tmp_path: Path) -> None:
    certificates.ensure(tmp_path)
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        get(url, str(tmp_path / "ca.pem"))


def test_a_server_with_another_name_is_refused(url: str, tls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(_host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(requests.exceptions.SSLError, match="Hostname mismatch"):
        get(url.replace("127.0.0.1", "another.example"), str(tls / "ca.pem"))


def test_what_is_trusted_by_default_does_not_vouch_for_the_server(url: str) -> None:
    assert context_for(verify=True) is not None
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        get(url, verify=True)


def test_a_changed_file_counts_for_the_next_connection_of_the_same_adapter(url: str, tls: Path, tmp_path: Path) -> None:
    trusted, adapter = tmp_path / "trusted.pem", SharedTrustAdapter()
    certificates.ensure(tmp_path / "other")
    trusted.write_bytes((tmp_path / "other/ca.pem").read_bytes())
    with pytest.raises(requests.exceptions.SSLError):
        get(url, str(trusted), adapter)
    trusted.write_bytes((tls / "ca.pem").read_bytes() + b"\n")
    assert get(url, str(trusted), adapter) == 200
    assert len(tls_trust._contexts) == 1


def test_a_folder_of_certificates_is_taken_as_one(url: str, tmp_path: Path) -> None:
    assert context_for(str(tmp_path)) is not None
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        get(url, str(tmp_path))


@pytest.mark.parametrize("content", [None, "this is no certificate\n"])
def test_what_cannot_be_read_ends_as_it_does_without_sharing(url: str, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "trusted.pem"
    if content is not None:
        file.write_text(content)
    said = []
    for adapter in (HTTPAdapter(), SharedTrustAdapter()):
        with pytest.raises(OSError) as error:  # noqa: PT011 - compared below
            get(url, str(file), adapter)
        said.append((type(error.value), str(error.value).replace(hex(id(adapter)), "")))
    assert said[0][0] is said[1][0]


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_no_verification_stays_none_and_says_nothing_about_the_next_one(url: str, tls: Path, tmp_path: Path) -> None:
    certificates.ensure(tmp_path)
    adapter = SharedTrustAdapter()
    assert get(url, verify=False, adapter=adapter) == 200
    assert get(url, str(tls / "ca.pem"), adapter) == 200
    with pytest.raises(requests.exceptions.SSLError):
        get(url, str(tmp_path / "ca.pem"), adapter)


def test_a_client_with_a_certificate_of_its_own_shows_it(url: str, tls: Path) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", SharedTrustAdapter())
        own = (str(tls / "server.pem"), str(tls / "server.key"))
        assert session.get(url, verify=str(tls / "ca.pem"), cert=own, timeout=10).ok
    assert tls_trust._contexts == {}


def test_what_is_trusted_by_default_can_be_read_beforehand_and_is_there_in_a_fork(
    url: str, tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls / "ca.pem"))
    read_certificates()
    (read,) = tls_trust._contexts.values()
    assert context_for(str(tls / "ca.pem")) is read
    child = os.fork()
    if not child:
        os._exit(0 if context_for(str(tls / "ca.pem")) is read and get(url, str(tls / "ca.pem")) == 200 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
