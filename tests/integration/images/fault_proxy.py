"""A proxy in front of the real registry that answers some requests wrongly, once or again and again."""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import requests

from tests.integration.images.support import Registry, write_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.images.kept_uploads import Answer, KeptUploads

_HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "keep-alive", "content-encoding", "date", "server"}


@dataclass
class Fault:
    """What goes wrong.

    :param method: the HTTP method that it happens to.
    :param path: a pattern that the path has to contain.
    :param status: the status that is answered instead; 0 for none.
    :param headers: headers that are answered in addition, or instead of the registry's.
    :param body: what is answered with ``status``.
    :param reset: whether the connection is cut in the middle of the request's body.
    :param cut: whether it is cut there after the registry got the first half.
    :param lost: whether the registry gets it all and its answer is lost.
    :param corrupt: whether a byte of the answer's body is changed.
    :param garble: whether a byte of the request's body is changed.
    :param after: how many such requests pass before it begins.
    :param times: how often it still happens.
    """

    method: str
    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: bool = False
    cut: bool = False
    lost: bool = False
    corrupt: bool = False
    garble: bool = False
    after: int = 0
    times: int = 1

    def strikes(self, method: str, path: str) -> bool:
        if self.times < 1 or method != self.method or not re.search(self.path, path):
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass
class FaultProxy:
    """A running proxy.

    :param registry: how to reach the registry through it.
    :param faults: what goes wrong; tests put it in.
    :param seen: method and path of every request, in order.
    :param uploads: where uploads are kept, when that is not the registry's affair.
    :param sent: bytes of the bodies that reached the registry.
    """

    registry: Registry
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    uploads: KeptUploads | None = None

    def count(self, method: str, path: str) -> int:
        return sum(1 for one, other in self.seen if one == method and re.search(path, other))


@contextlib.contextmanager
def run_fault_proxy(behind: Registry, folder: Path) -> Iterator[FaultProxy]:
    """Run a proxy until the block ends."""
    ca, certificate, key = write_certificates(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    proxy = FaultProxy(Registry(f"127.0.0.1:{server.server_address[1]}", ca, behind.data))
    server.proxy, server.behind = proxy, behind  # type: ignore[attr-defined]  # the handler finds them there
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def handle(self) -> None:
        # A client that goes away in the middle is part of what is tested.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def _answer(self) -> None:
        proxy: FaultProxy = self.server.proxy
        proxy.seen.append((self.command, self.path))
        fault = next((one for one in proxy.faults if one.strikes(self.command, self.path)), None)
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.reset:
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if fault and fault.status:
            self._send(fault.status, fault.headers, fault.body)
            return
        if fault and fault.garble:
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault and fault.cut:
            # As a request of its own, so that the registry has the half before the client asks for it.
            self.command, body = "PATCH", body[: length // 2]
        answer = self._pass_on(body)
        if fault and (fault.lost or fault.cut):
            self._hang_up()
            return
        content = answer.content
        if fault and fault.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        size = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        self._send(answer.status_code, {**headers, **(fault.headers if fault else {})}, content, size)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _pass_on(self, body: bytes) -> Answer | requests.Response:
        proxy: FaultProxy = self.server.proxy
        proxy.sent += len(body)
        kept = proxy.uploads and proxy.uploads.answer(self.command, self.path, dict(self.headers), body, self._forward)
        return kept or self._forward(self.command, self.path, body)

    def _forward(self, method: str, path: str, body: bytes) -> requests.Response:
        behind: Registry = self.server.behind
        left_out = {"content-length", "content-range"}
        with requests.Session() as session:
            session.trust_env, session.verify = False, str(behind.ca)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
            url = f"https://{behind.address}{path}"
            return session.request(method, url, headers=headers, data=body or None, timeout=20)

    def _send(self, status: int, headers: dict[str, str], content: bytes, size: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", size or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the base class's names
