"""Asks a served image: whether it is healthy, and whether it answers as the model did when it was trained."""

from __future__ import annotations

import http.client
import json
import math
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.deployment.host.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SCORE_PATH = "/score"
HEALTH_PATH = "/"
_SECONDS = 30.0
_PAUSE = 0.02
_MOST_DIFFERENCES = 5


@dataclass(frozen=True)
class Door:
    """Where a served image is reached: a socket file, or a TCP address.

    :param address: the path of the socket file, or ``(host, port)``.
    """

    address: str | tuple[str, int]

    def ask(self, method: str, path: str, body: bytes | None = None, seconds: float = _SECONDS) -> tuple[int, bytes]:
        """Send one request, and return status and body of the answer.

        :param method: HTTP method.
        :param path: where to.
        :param body: JSON, or nothing.
        :param seconds: how long to wait for it.
        :raises OSError: when nobody answers; ``http.client.HTTPException`` likewise.
        """
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self._connect(seconds)
        try:
            headers = {"Connection": "close"} | ({"Content-Type": "application/json"} if body is not None else {})
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _connect(self, seconds: float) -> socket.socket:
        if not isinstance(self.address, str):
            return socket.create_connection(self.address, timeout=seconds)
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(seconds)
        try:
            plain.connect(self.address)
        except OSError:
            plain.close()
            raise
        return plain

    def is_healthy(self, seconds: float = _SECONDS) -> bool:
        """Tell whether the image's program answers that it is well.

        :param seconds: how long to wait for the answer.
        """
        try:
            return self.ask("GET", HEALTH_PATH, seconds=seconds)[0] == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def wait_healthy(door: Door, seconds: float, ended: Callable[[], str]) -> float:
    """Wait until a program is healthy, and return after how many seconds it was.

    :param door: where it is reached.
    :param seconds: how long it may take.
    :param ended: says that the program ended, with the end of its log, or ``""`` while it runs.
    :raises HostError: when it ends, or is not healthy in time.
    """
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        if door.is_healthy(max(begin + seconds - time.monotonic(), _PAUSE)):
            return time.monotonic() - begin
        if told := ended():
            raise HostError("unhealthy", told)
        time.sleep(_PAUSE)
    raise HostError("unhealthy", f"it was not healthy (GET {HEALTH_PATH}) within {seconds:g} s")


def check_answers(door: Door, probe: Mapping[str, Any]) -> int:
    """Ask what was asked at training, and compare; return how many numbers were compared.

    :param door: where the image is reached.
    :param probe: ``cases`` of ``request`` and ``answer``, and ``tolerance`` with ``absolute`` and ``relative``.
    :raises HostError: when an answer differs, saying which, or there is none.
    """
    compared = 0
    tolerance = probe["tolerance"]
    for number, case in enumerate(probe["cases"], start=1):
        answer = _score(door, case["request"], number)
        found = differences(case["answer"], answer, tolerance["absolute"], tolerance["relative"])
        if found:
            more = f" and {len(found) - _MOST_DIFFERENCES} more" if len(found) > _MOST_DIFFERENCES else ""
            raise HostError(
                "probe",
                f"to probe {number} of {len(probe['cases'])} it answers otherwise than the model did when it was trained: "
                f"{'; '.join(found[:_MOST_DIFFERENCES])}{more}",
            )
        compared += count_values(case["answer"])
    return compared


def _score(door: Door, request: object, number: int) -> Any:
    try:
        status, body = door.ask("POST", SCORE_PATH, json.dumps(request).encode())
    except (OSError, http.client.HTTPException) as error:
        raise HostError(
            "unhealthy",
            f"it was healthy, but did not answer probe {number} (POST {SCORE_PATH}): {type(error).__name__}: {error}",
        ) from error
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if status != http.client.OK or answer is None:
        # The probe is synthetic, so what is said about it may be repeated.
        raise HostError(
            "probe", f"it answered probe {number} with HTTP {status}: {body[:300].decode('utf-8', 'replace')}"
        )
    return answer


def differences(expected: Any, found: Any, absolute: float, relative: float, where: str = "answer") -> list[str]:
    """Return where two answers differ, one phrase each.

    :param expected: the recorded answer.
    :param found: the answer now.
    :param absolute: the largest difference of two numbers that counts as none.
    :param relative: the same, as a part of the larger number.
    :param where: the place in the answer, for the phrases.
    """
    if _is_number(expected) and _is_number(found):
        same = math.isclose(expected, found, rel_tol=relative, abs_tol=absolute)
        return [] if same else [f"{where} is {found:g}, recorded was {expected:g}"]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = [
            (f"{where}[{index}]", one, other) for index, (one, other) in enumerate(zip(expected, found, strict=True))
        ]
    elif isinstance(expected, dict) and isinstance(found, dict) and set(expected) == set(found):
        pairs = [(f"{where}.{name}", expected[name], found[name]) for name in sorted(expected)]
    else:
        return (
            []
            if type(expected) is type(found) and expected == found
            else [f"{where} is {_shown(found)}, recorded was {_shown(expected)}"]
        )
    return [phrase for place, one, other in pairs for phrase in differences(one, other, absolute, relative, place)]


def count_values(value: Any) -> int:
    """Return how many single values an answer has.

    :param value: the answer.
    """
    if isinstance(value, (list, dict)):
        return sum(count_values(one) for one in (value.values() if isinstance(value, dict) else value))
    return 1


def latencies(door: Door, requests: Sequence[object], times: int) -> tuple[float, float]:
    """Return the median and the 95th percentile of the time to an answer, in seconds.

    :param door: where the image is reached.
    :param requests: what is asked, in turn.
    :param times: how often in all.
    """
    taken = []
    for number in range(times):
        begin = time.monotonic()
        _score(door, requests[number % len(requests)], number + 1)
        taken.append(time.monotonic() - begin)
    taken.sort()
    return taken[len(taken) // 2], taken[min(int(len(taken) * 0.95), len(taken) - 1)]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
