"""Questions to a server that tell whether it does its work by now."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_SECONDS = 5


def answers_https(port: int, tls: Path, path: str, host: str = "127.0.0.1") -> bool:
    """Say whether a server answers a request with our certificate and without a failure of its own.

    :param port: Its TCP port on 127.0.0.1.
    :param tls: The folder of the private CA.
    :param path: What to ask for; to be told to log in is an answer, too.
    :param host: The name the certificate has to be for.
    :raises OSError: It cannot be reached, or shows another certificate.
    """
    context = ssl.create_default_context(cafile=tls / "ca.pem")
    connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500
    except http.client.HTTPException:
        return False
    finally:
        connection.close()


def answers_ssh(port: int) -> bool:
    """Say whether a server greets as an SSH server does.

    :param port: Its TCP port on 127.0.0.1.
    :raises OSError: It cannot be reached.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as connection:
        return connection.recv(4) == b"SSH-"
