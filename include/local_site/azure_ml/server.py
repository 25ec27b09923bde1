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

    from starlette.types import ASGIApp

    from local_site.azure_ml.backend import Backend

BACKLOG = 128


def serve(settings: Settings, certificate: Path, key: Path, announcement: str = "") -> int:
    """Answer until SIGTERM or SIGINT.

    Runs that are still going then go on on their VM; the next start finds them again.

    :param certificate: the server's certificate chain, PEM.
    :param key: its private key, PEM.
    :param announcement: is printed when the server can be reached.
    :raises SettingsError: when the port is taken or a TLS file is missing.
    """
    prepare_logging()
    for file in (certificate, key, settings.ca_bundle):
        if not file.is_file():
            raise SettingsError(f"The TLS file {file} does not exist.")
    listener = listen(settings.port)
    if announcement:
        print(announcement, flush=True)
    backend = open_backend(settings)
    answer(backend, make_server(make_app(backend), certificate, key), listener)
    return 0


def prepare_logging() -> None:
    """Let the server speak on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # it prints tracebacks of what we report in words


def make_server(app: ASGIApp, certificate: Path, key: Path) -> uvicorn.Server:
    """Return the TLS server for an application."""
    config = uvicorn.Config(
        app,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def answer(backend: Backend, server: uvicorn.Server, listener: socket.socket) -> None:
    """Work, and answer what comes to a listening socket, until SIGTERM or SIGINT."""
    backend.start()
    try:
        server.run(sockets=[listener])
    finally:
        backend.stop()


def listen(port: int) -> socket.socket:
    """Return a socket that listens: who connects before the server is ready waits instead of being refused.

    :raises SettingsError: when the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Port {port} on 127.0.0.1 cannot be used ({error.strerror}); choose another (--port)."
        ) from error
    return listener
