"""A proxy before a service of the site, which makes calls fail as the Azure ML stand-in does by itself: for the registry and the blobs."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "keep-alive"}
_TIMEOUT_SECONDS = 60.0
# Closing with this set resets the connection.
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass
class Wish:
    """What the next calls get.

    :param kind: ``status``, ``reset``, which does nothing and cuts, or ``lost_response``, which does the work and cuts.
    :param calls: how many calls are left.
    """

    kind: str
    method: str
    path: str
    calls: int
    status: int = 500
    retry_after: int = -1


class Proxy:
    """A running proxy.

    :param port: where it listens on 127.0.0.1.
    :param behind: the service's own port.
    :param tls: the folder with the site's certificate, key and CA.
    """

    def __init__(self, port: int, behind: int, tls: Path) -> None:
        self.port = port
        self.behind = f"https://127.0.0.1:{behind}"
        self.ca = str(tls / "ca.pem")
        self.requests: list[tuple[str, str]] = []
        self._writes = 0
        self._written = -math.inf
        self._wishes: list[Wish] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.proxy = self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "server.pem", tls / "server.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    def wish(self, wish: Wish) -> None:
        """Let the next calls fail."""
        with self._lock:
            self._wishes.append(wish)

    def forget(self, wish: Wish) -> None:
        """Take back what has not been met."""
        with self._lock, contextlib.suppress(ValueError):
            self._wishes.remove(wish)

    @property
    def seconds_since_write(self) -> float:
        """How long nothing was written; 0 while something is."""
        with self._lock:
            return 0.0 if self._writes else time.monotonic() - self._written

    @contextlib.contextmanager
    def counting(self, method: str) -> Iterator[None]:
        """Remember when something was written."""
        writes = int(method not in {"GET", "HEAD"})
        with self._lock:
            self._writes += writes
        try:
            yield
        finally:
            with self._lock:
                self._writes -= writes
                self._written = time.monotonic() if writes else self._written

    def take(self, method: str, path: str) -> Wish | None:
        """Return what this call gets, counting it, or ``None``."""
        with self._lock:
            self.requests.append((method, path))
            for wish in self._wishes:
                if wish.method == method and re.search(wish.path, path):
                    wish.calls -= 1
                    if wish.calls <= 0:
                        self._wishes.remove(wish)
                    return wish
        return None


class _Server(ThreadingHTTPServer):
    proxy: Proxy
    daemon_threads = True
    # The VM and several tasks come at once.
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that are killed are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet each, at once.
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with requests.Session() as self.session:
            self.session.trust_env, self.session.verify = False, self.server.proxy.ca
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def _answer(self) -> None:
        wish = self.server.proxy.take(self.command, self.path)
        body = self._body()
        if wish is not None and wish.kind == "status":
            headers = {"Retry-After": str(wish.retry_after)} if wish.retry_after >= 0 else {}
            self._send(wish.status, headers, b"")
            return
        if wish is not None and wish.kind == "reset":
            self._cut()
            return
        try:
            with self.server.proxy.counting(self.command):
                answer, content = self._forward(body)
        except requests.RequestException:
            # The service is down, or was killed in the middle: whoever asks sees no more than that.
            self._cut()
            return
        if wish is not None:
            self._cut()
            return
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        size = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        self._send(answer.status_code, headers, content, size)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[requests.Response, bytes]:
        skipped = _HOP_BY_HOP | {"expect"}
        headers: dict[str, Any] = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
        # What the client does not send, its library's defaults must not add: the blobs' signature covers some headers.
        headers |= {name: None for name in ("User-Agent", "Accept", "Accept-Encoding") if name not in self.headers}
        answer = self.session.request(
            self.command,
            self.server.proxy.behind + self.path,
            headers=headers,
            data=body or None,
            timeout=_TIMEOUT_SECONDS,
            allow_redirects=False,
            stream=True,
        )
        # As it came, compressed or not.
        return answer, answer.raw.read(decode_content=False)

    def _send(self, status: int, headers: dict[str, str], content: bytes, size: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in {204, 304}:
            self.send_header("Content-Length", size or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        os.close(self.connection.detach())

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the base class's names
