"""Runs inside the sandbox, before the script: tries to get out, says what happened, sets the limits, becomes the script.

Started as ``python self_test.py '<JSON>'`` with ``doors`` (addresses that accept connections outside), ``abstract`` (a Unix
socket of the runner), ``runner`` (its process number), ``closed`` (paths that must not be opened), ``hidden`` (paths that must not
even be seen), ``sealed`` (folders that must not be written to), ``environment`` (names of the only variables), ``limits`` and
``script``. Anything found open ends it with status 97.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from typing import Any

HOLE_STATUS = 97
CONNECT_SECONDS = 1.0


def check(spec: dict[str, Any]) -> dict[str, str]:
    """Try every way out.

    :param spec: see above.
    :returns: for each check ``"closed"``, or what was found open.
    """
    interfaces = _interfaces()
    environment = sorted(set(os.environ) - set(spec["environment"]) - {"PWD", "LC_CTYPE"})
    return {
        "interfaces": f"open: {interfaces}" if interfaces else "closed",
        "connections": _first_open(_connects(door) for door in spec["doors"]),
        "abstract_sockets": _first_open([_reaches_socket(spec["abstract"])]),
        "environment": f"open: {environment}" if environment else "closed",
        "hidden_files": _first_open([*map(_opens, spec["closed"]), *map(os.path.lexists, spec["hidden"])]),
        "other_processes": _first_open([_reaches_process(spec["runner"])]),
        "sealed_folders": _first_open(_writes(folder) for folder in spec["sealed"]),
    }


def _interfaces() -> list[str]:
    try:
        return sorted(name for _, name in socket.if_nameindex() if name != "lo")
    except OSError:
        return []  # not even a list of them is to be had


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _reaches_process(number: int) -> bool:
    """Tell whether a process outside can be signalled; in a sandbox that counts anew, the number may be one of its own."""
    if number in {1, os.getpid(), os.getppid()}:
        return False
    try:
        os.kill(number, 0)
    except OSError:
        return False
    return True


def _first_open(found: Any) -> str:
    places = [str(number) for number, is_open in enumerate(found) if is_open]
    return f"open: number {', '.join(places)}" if places else "closed"


def _connects(door: list[Any]) -> bool:
    try:
        socket.create_connection((door[0], door[1]), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _reaches_socket(name: str) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex("\0" + name) == 0
    except OSError:
        return False


def _writes(folder: str) -> bool:
    path = f"{folder}/.edge-probe"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError:
        return False
    os.unlink(path)  # noqa: PTH108 - pathlib would double the time this file takes to start
    return True


def limit(limits: dict[str, int]) -> None:
    """Set the limits that the script and all its children keep.

    :param limits: names of :mod:`resource` without ``RLIMIT_``, each with its value; a lower limit that holds already stays.
    """
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (wanted, wanted))


def main() -> None:
    """Check, tell, and become the script."""
    spec = json.loads(sys.argv[1])
    checks = check(spec)
    message = {"version": 1, "method": "sandbox_ready", "params": {"checks": checks}}
    os.write(int(os.environ["EDGE_PROTOCOL_FD"]), json.dumps(message).encode() + b"\n")
    if any(found != "closed" for found in checks.values()):
        sys.exit(HOLE_STATUS)
    limit(spec["limits"])
    os.execv(sys.executable, [sys.executable, spec["script"]])  # noqa: S606 - becomes the script, without a shell


if __name__ == "__main__":
    main()
