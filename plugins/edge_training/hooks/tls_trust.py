"""TLS for many short connections: what the organisation trusts is read once, not for each connection.

``requests`` hands the name of a file to each new connection, which reads all certificates in it (20 ms for 145 of them). Here connections
share one context per file. A fork has those of its parent.
"""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import requests
from requests.adapters import HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

if TYPE_CHECKING:
    from requests.adapters import _HostParams, _PoolKwargs

_contexts: dict[tuple[Path, int, int], ssl.SSLContext] = {}
_lock = threading.Lock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def context_for(verify: bool | str | None) -> ssl.SSLContext | None:
    """Return a context that trusts what ``requests`` would trust, read anew when the file has changed.

    :param verify: ``True`` for the usual authorities, or a file or folder of certificates, as ``requests`` takes it.
    :return: the context, or ``None`` when there is nothing to share: no verification, or a file that cannot be read, which ``requests``
        then says in its own words.
    """
    if not verify:
        return None
    path = Path(certifi.where() if verify is True else verify)
    try:
        found = path.stat()
        key = (path, found.st_mtime_ns, found.st_size)
        with _lock:
            if key not in _contexts:
                context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
                is_folder = path.is_dir()
                context.load_verify_locations(None if is_folder else path, path if is_folder else None)
                for old in [one for one in _contexts if one[0] == path]:
                    del _contexts[old]
                _contexts[key] = context
            return _contexts[key]
    except OSError:
        return None


def read_certificates() -> None:
    """Read what ``requests`` trusts by default, for this process and its forks."""
    settings = requests.Session().merge_environment_settings("https://localhost", {}, None, None, None)
    context_for(settings["verify"])


class SharedTrustAdapter(HTTPAdapter):
    """An adapter whose connections share what they trust."""

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[_HostParams, _PoolKwargs]:
        """Return where a request goes, and with what context; as ever when a certificate of the client's own is shown."""
        host, usual = super().build_connection_pool_key_attributes(request, verify, cert)
        pool: Any = dict(usual)
        if host["scheme"] == "https" and cert is None and (context := context_for(verify)) is not None:
            for name in ("ca_certs", "ca_cert_dir"):
                pool.pop(name, None)
            pool["ssl_context"] = context
        return host, pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Tell a connection what to trust, unless its context knows."""
        if conn.conn_kw.get("ssl_context") is None:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]  # untyped in requests
