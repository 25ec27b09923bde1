"""The process: one socket, one TLS server, and the scheduler of runs beside it."""

from __future__ import annotations

import logging
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn

from local_site.azure_ml.app import make_app
from local_site.azure_ml.backend import open_backend
from local_site.azure_ml.settings import Settings, SettingsError

if TYPE_CHECKING:
    from pathlib import Path


def serve(settings: Settings, certificate: Path, key: Path) -> int:
    """Answer until SIGTERM or SIGINT.

    Runs that are still going then go on on their VM; the next start finds them again.

    :param certificate: the server's certificate chain, PEM.
    :param key: its private key, PEM.
    :raises SettingsError: when the port is taken or a TLS file is missing.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # it prints tracebacks of what we report in words
    for file in (certificate, key, settings.ca_bundle):
        if not file.is_file():
            raise SettingsError(f"The TLS file {file} does not exist.")
    listener = _listen(settings.port)
    backend = open_backend(settings)
    config = uvicorn.Config(
        make_app(backend),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    backend.scheduler.start()
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        backend.scheduler.stop()
    return 0


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Port {port} on 127.0.0.1 cannot be used ({error.strerror}); choose another (--port)."
        ) from error
    return listener
