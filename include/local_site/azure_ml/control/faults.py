"""Faults made on purpose: the next calls of a route get a status, a delay, a reset connection, or a lost response."""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.errors import BadRequestError
from local_site.azure_ml.web import field_of

if TYPE_CHECKING:
    from local_site.azure_ml.control.state import Kept

KINDS = ("status", "delay", "reset", "lost_response")
FIELDS = ("kind", "method", "path", "calls", "status", "seconds", "retry_after")


@dataclass
class Fault:
    """What the next calls of a route get.

    :param kind: ``status`` answers with it and does nothing else; ``delay`` waits first; ``reset`` cuts the connection
        and does nothing; ``lost_response`` does the work and then cuts the connection.
    :param method: the HTTP method, or ``"*"``.
    :param path: a regular expression found anywhere in the path.
    :param calls: how many calls are left.
    :param status: for ``status``.
    :param seconds: for ``delay``.
    :param retry_after: seconds for the Retry-After header of ``status``, or ``-1`` for none.
    """

    kind: str
    method: str
    path: str
    calls: int
    status: int
    seconds: float
    retry_after: int


class Faults:
    """The faults that are waiting for their calls; they wait through a restart too.

    :param kept: where they are written down.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._waiting = [Fault(**fault) for fault in kept.get("faults", [])]
        self._lock = threading.Lock()

    def add(self, wish: dict[str, Any]) -> Fault:
        """Arrange a fault.

        :param wish: the fields of :class:`Fault`; only ``kind`` and ``path`` are required.
        :raises BadRequestError: when a field is unknown or wrong.
        """
        unknown = sorted(set(wish) - set(FIELDS))
        if unknown:
            raise BadRequestError(f"A fault has no {', '.join(unknown)}; its fields are {', '.join(FIELDS)}.")
        kind = field_of(wish, "kind", str)
        if kind not in KINDS:
            raise BadRequestError(f"There is no fault {kind!r}; the kinds are {', '.join(KINDS)}.")
        path = field_of(wish, "path", str)
        try:
            re.compile(path)
        except re.error as error:
            raise BadRequestError(f"The path {path!r} is not a regular expression: {error}.") from error
        fault = Fault(
            kind,
            field_of(wish, "method", str, "*").upper(),
            path,
            _within(field_of(wish, "calls", int, 1), 1, 1_000_000, "calls"),
            _within(field_of(wish, "status", int, 503), 400, 599, "status"),
            float(field_of(wish, "seconds", (int, float), 1.0)),  # type: ignore[arg-type]  # a pair of types works too
            field_of(wish, "retry_after", int, -1),
        )
        with self._lock:
            self._waiting.append(fault)
            self._keep()
        return fault

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault that this call gets, counting it, or ``None``."""
        with self._lock:
            for fault in self._waiting:
                if fault.method in {"*", method} and re.search(fault.path, path):
                    fault.calls -= 1
                    if fault.calls <= 0:
                        self._waiting.remove(fault)
                    self._keep()
                    return fault
        return None

    def clear(self) -> None:
        """Take back every fault."""
        with self._lock:
            self._waiting.clear()
            self._keep()

    def waiting(self) -> list[dict[str, Any]]:
        """Return the faults whose calls have not all come yet."""
        with self._lock:
            return [asdict(fault) for fault in self._waiting]

    def _keep(self) -> None:
        self._kept.set("faults", [asdict(fault) for fault in self._waiting])


def _within(number: int, least: int, most: int, name: str) -> int:
    if not least <= number <= most:
        raise BadRequestError(f"A fault's {name} must be between {least} and {most}, not {number}.")
    return number
