"""The bound around the SDK: one try, a time limit, a passing error that nobody below repeats; other users of requests notice nothing."""

from __future__ import annotations

import http.server
import os
import socket
import ssl
import threading
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from edge_training.hooks import azure_ml_transport
from edge_training.hooks.azure_ml_errors import map_error, wished_pause
from edge_training.hooks.azure_ml_transport import (
    CONNECT_SECONDS,
    READ_SECONDS,
    UnansweredError,
    bound_the_sdk,
    reading_at_most,
    retry_after,
)
from local_site import certificates
from tests.running_site import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What a module of the SDK does: a session with retries of its own, and no time limit.
AS_THE_SDK = """
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

def get(url, timeout=None):
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=Retry(3, status_forcelist=[503], raise_on_status=False)))
        return session.get(url, timeout=timeout)
"""
# What its storage client does, which uploads each file of a snapshot with a client of its own.
AS_ITS_STORAGE = """
from azure.core.pipeline.transport import HttpRequest, RequestsTransport

def get(url):
    with RequestsTransport() as transport:
        return transport.send(HttpRequest("GET", url))
"""


def sender(module: str, text: str = AS_THE_SDK) -> Any:
    """Return the function ``get`` as if it stood in a module of this name."""
    names: dict[str, Any] = {"__name__": module}
    exec(text, names)  # noqa: S102 - the bound goes by the name of the calling module
    return names["get"]


sdk_get = sender("azureml._restclient.made_up")
storage_get = sender("azureml._vendor.made_up", AS_ITS_STORAGE)
other_get = sender("somebody.elses")


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azureml")
    monkeypatch.setattr(HTTPAdapter, "send", HTTPAdapter.send)  # put back afterwards
    bound_the_sdk()


class Server(http.server.ThreadingHTTPServer):
    """Answers every request with one status and counts them."""

    status = 200
    headers: dict[str, str]
    body = b"{}"
    count = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.count += 1
        self.send_response(server.status)
        for name, value in {**server.headers, "Content-Length": str(len(server.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the interface of http.server
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.headers = {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/subscriptions/1/workspaces/w/runs/r?sig=secret"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 530])
def test_a_passing_status_is_asked_for_once_and_carries_what_the_service_said(server: Server, status: int) -> None:
    server.status, server.headers = status, {"Retry-After": "7"}
    server.body = b'{"error": {"code": "Busy", "message": "not now"}}'
    with pytest.raises(UnansweredError) as error:
        sdk_get(url(server))
    assert (server.count, error.value.status_code, error.value.retry_after) == (1, status, 7.0)
    mapped = map_error(error.value, "do a thing", "azure_ml")
    assert (mapped.status, mapped.code, mapped.retryable) == (status, "Busy", True)
    assert "Could not do a thing (connection 'azure_ml'): not now" in str(mapped)


def test_a_body_that_says_nothing_is_replaced_by_what_was_asked_without_its_signature(server: Server) -> None:
    server.status, server.body = 502, b"<html>bad gateway</html>"
    with pytest.raises(UnansweredError, match=r"GET 127\.0\.0\.1:\d+ /\.\.\./runs/r was answered with 502") as error:
        sdk_get(url(server))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 409, 501])
def test_every_other_answer_reaches_the_sdk_as_it_is(server: Server, status: int) -> None:
    server.status = status
    assert sdk_get(url(server)).status_code == status


def test_others_keep_their_own_retries(server: Server) -> None:
    server.status = 503
    assert other_get(url(server)).status_code == 503
    assert server.count == 4


def test_a_server_that_is_down_is_an_error_of_one_try() -> None:
    (port,) = free_ports(1)
    with pytest.raises(UnansweredError, match="Connection refused") as error:
        sdk_get(f"http://127.0.0.1:{port}/")
    mapped = map_error(error.value, "do a thing", "azure_ml")
    assert (mapped.status, mapped.retryable) == (None, True)


def test_a_name_that_is_not_known_may_be_known_later() -> None:
    with pytest.raises(UnansweredError) as error:
        sdk_get("http://nobody.invalid/")
    assert map_error(error.value, "do a thing", "azure_ml").retryable


def test_a_connection_that_is_closed_without_an_answer_is_not_made_again() -> None:
    connections = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            nonlocal connections
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections += 1
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(UnansweredError):
            sdk_get(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert connections == 1


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (None, (CONNECT_SECONDS, READ_SECONDS)),
        (80_000, (CONNECT_SECONDS, READ_SECONDS)),
        ((20, 80_000), (CONNECT_SECONDS, READ_SECONDS)),
        ((3, 5), (3, 5)),
        (4, (4, 4)),
    ],
)
def test_no_request_of_the_sdk_waits_without_limit(wanted: Any, given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def send(self: HTTPAdapter, request: Any, **kwargs: Any) -> requests.Response:
        seen.append(kwargs["timeout"])
        response = requests.Response()
        response.status_code = 200
        return response

    monkeypatch.setattr(azure_ml_transport, "_send", send)  # how long somebody would wait cannot be seen from outside
    sdk_get("http://127.0.0.1/", wanted)
    with reading_at_most(30):
        sdk_get("http://127.0.0.1/")
    assert seen == [given, (CONNECT_SECONDS, 30)]


def test_an_untrusted_certificate_does_not_get_better_by_waiting(server: Server, tmp_path: Path) -> None:
    certificates.ensure(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(UnansweredError) as error:
        sdk_get(url(server).replace("http:", "https:"))
    mapped = map_error(error.value, "do a thing", "azure_ml")
    assert (mapped.status, mapped.retryable) == (None, False)
    assert "REQUESTS_CA_BUNDLE" in str(mapped)


class Keeping(http.server.ThreadingHTTPServer):
    """Keeps its connections open and counts them."""

    daemon_threads = True
    connections = 0
    hangs_up = False
    closed: threading.Event

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.closed.set()


class KeepingHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        assert isinstance(self.server, Keeping)
        self.close_connection = self.server.hangs_up  # without having said so

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the interface of http.server
        pass


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeping]:
    monkeypatch.setattr(azure_ml_transport, "_connections", azure_ml_transport._Connections())
    with Keeping(("127.0.0.1", 0), KeepingHandler) as server:
        server.closed = threading.Event()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()
    azure_ml_transport._connections._adapter.close()


def test_all_sessions_of_the_sdk_share_a_connection_and_others_have_their_own(keeping: Keeping) -> None:
    where = f"http://127.0.0.1:{keeping.server_port}/"
    for _ in range(5):
        sdk_get(where)
        storage_get(where)
    assert keeping.connections == 1
    other_get(where)
    assert keeping.connections == 2


def test_a_connection_that_was_not_used_for_long_is_not_relied_on(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"http://127.0.0.1:{keeping.server_port}/"
    sdk_get(where)
    monkeypatch.setattr(azure_ml_transport, "IDLE_SECONDS", 0.0)
    sdk_get(where)
    assert keeping.connections == 2


def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used(keeping: Keeping) -> None:
    where = f"http://127.0.0.1:{keeping.server_port}/"
    keeping.hangs_up = True
    sdk_get(where)
    assert keeping.closed.wait(10)
    sdk_get(where)
    assert keeping.connections == 2


def test_a_fork_shares_no_connection_with_the_process_it_comes_from(keeping: Keeping) -> None:
    where = f"http://127.0.0.1:{keeping.server_port}/"
    sdk_get(where)
    child = os.fork()
    if not child:
        os._exit(0 if sdk_get(where).ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    sdk_get(where)
    assert keeping.connections == 2


def test_a_download_of_the_sdk_fails_at_its_first_error() -> None:
    from azureml._file_utils import file_utils

    tries: list[str] = []

    def fail() -> None:
        tries.append("tried")
        raise UnansweredError("down")

    with pytest.raises(UnansweredError):
        file_utils._retry(fail, clean_up_func=lambda: tries.append("closed"), max_retries=5, fail_on_exceptions=())
    assert tries == ["tried", "closed"]


def test_a_retry_after_may_be_seconds_or_a_date() -> None:
    assert retry_after({"Retry-After": "12"}) == 12.0
    later = retry_after({"Retry-After": formatdate(time.time() + 3600, usegmt=True)})
    assert later is not None
    assert later > 3000
    assert retry_after({"Retry-After": formatdate(0, usegmt=True)}) == 0.0
    for unreadable in ({}, {"Retry-After": ""}, {"Retry-After": "soon"}):
        assert retry_after(unreadable) is None


def test_the_pause_that_a_service_wishes_is_found_in_our_error_and_in_plain_ones() -> None:
    error = UnansweredError("busy", 429, None, 3.0)
    assert wished_pause(map_error_from(error)) == 3.0
    response = requests.Response()
    response.status_code = 429
    response.headers["Retry-After"] = "4"
    assert wished_pause(map_error_from(requests.HTTPError("busy", response=response))) == 4.0
    assert wished_pause(map_error_from(RuntimeError("no pause"))) is None


def map_error_from(cause: Exception) -> BaseException:
    error = map_error(cause, "do a thing", "azure_ml")
    error.__cause__ = cause
    return error
