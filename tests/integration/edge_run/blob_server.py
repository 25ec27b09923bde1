"""A blob store over https that can be told to misbehave."""

from __future__ import annotations

import hashlib
import json
import ssl
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

API_VERSION = "2019-07-07"
SIGNATURE = "sig=c2VjcmV0LXNpZ25hdHVyZQ%3D%3D"


class _Handler(BaseHTTPRequestHandler):
    """Answers as a blob store does: the ETag decides, and a planned fault comes first."""

    server: BlobServer

    def do_GET(self) -> None:
        store, name = self.server, self.path.split("?")[0].removeprefix("/container/")
        store.requests.append((name, dict(self.headers)))
        faults = store.faults.get(name, [])
        if faults and (status := faults.pop(0)):
            self._answer(status, b"", {"x-ms-error-code": "Planned"})
        elif SIGNATURE not in self.path:
            self._answer(403, b"", {"x-ms-error-code": "AuthenticationFailed"})
        elif name not in store.blobs:
            self._answer(404, b"", {"x-ms-error-code": "BlobNotFound"})
        elif self.headers["If-Match"] != store.etags[name]:
            self._answer(412, b"", {"x-ms-error-code": "ConditionNotMet"})
        else:
            self._answer(200, store.blobs[name], {"ETag": store.etags[name]}, store.cut.get(name))

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Keep the test's output clean."""


class BlobServer(ThreadingHTTPServer):
    """Blobs over https.

    :cvar faults: for each blob the statuses of its next answers; 0 for a good one.
    :cvar cut: for each blob after how many bytes the connection breaks.
    """

    daemon_threads = True

    def __init__(self, certificate: Path, key: Path, ca_pem: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.ca_pem = ca_pem
        self.blobs: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.faults: dict[str, list[int]] = {}
        self.cut: dict[str, int] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that break off are part of the tests."""

    def put(self, name: str, content: bytes) -> None:
        """Store a blob; each write gives it another ETag."""
        self.blobs[name] = content
        self.etags[name] = f'"0x{len(self.etags)}{hashlib.sha256(content).hexdigest()[:12]}"'

    def grant(self, **changes: Any) -> dict[str, Any]:
        """Return a grant for all blobs as they are now."""
        blobs = [
            {
                "name": name,
                "url": f"https://127.0.0.1:{self.server_address[1]}/container/{name}?sv={API_VERSION}&sr=b&{SIGNATURE}",
                "size": len(content),
                "etag": self.etags[name],
                "content_hash": "sha256:" + hashlib.sha256(content).hexdigest(),
            }
            for name, content in sorted(self.blobs.items())
        ]
        rows = [[blob["name"], blob["size"], blob["content_hash"]] for blob in blobs]
        digest = hashlib.sha256(json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
        return {
            "version": 1,
            "fingerprint": f"sha256:{digest}",
            "expires": (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "api_version": API_VERSION,
            "ca_pem": self.ca_pem,
            "columns": ["a", "b"],
            "blobs": blobs,
            **changes,
        }
