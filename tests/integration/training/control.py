"""The control endpoints of the Azure ML stand-in: faults to come, and what was asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import requests


@dataclass
class Control:
    """The control endpoints of the Azure ML that these tests run against.

    :param url: of that Azure ML.
    :param session: sends the requests.
    """

    url: str
    session: requests.Session

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.session.request(method, f"{self.url}/_control/{path}", json=body, timeout=10)
        answer.raise_for_status()
        content: dict[str, Any] = answer.json()
        return content

    def fault(self, kind: str, path: str, **fields: Any) -> None:
        self.call("POST", "faults", {"kind": kind, "path": path, **fields})

    def unused_faults(self) -> list[Any]:
        left: list[Any] = self.call("GET", "faults")["faults"]
        return left

    def requests(self, pattern: str = "") -> list[dict[str, Any]]:
        """Return what was asked since the last clearing, faults included."""
        return [one for one in self.call("GET", "journal")["requests"] if re.search(pattern, one["path"])]

    def clear(self) -> None:
        self.call("DELETE", "faults")
        self.call("DELETE", "journal")
