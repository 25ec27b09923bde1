"""Uploads as the distribution protocol describes them: what arrived stays, and the registry tells how much that is.

Debian's registry gives an upload up when a request broke off in its middle, so this stands in front of it where going on is tested.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import requests

_PATH = re.compile(r"(/v2/.+/blobs/uploads/)([0-9a-f-]*)(?:\?(?P<query>.*))?")


@dataclass
class Answer:
    """What is answered; as much of a ``requests.Response`` as the proxy looks at."""

    status_code: int
    headers: dict[str, str]
    content: bytes = b""


@dataclass
class KeptUploads:
    """The uploads under way, by their addresses."""

    under_way: dict[str, bytearray] = field(default_factory=dict)

    def answer(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        forward: Callable[[str, str, bytes], requests.Response],
    ) -> Answer | requests.Response | None:
        """Answer a request about an upload; ``None`` when it is about something else.

        :param forward: sends a method, path and body to the registry behind.
        """
        match = _PATH.fullmatch(path)
        if match is None or "mount=" in (match["query"] or ""):
            return None
        place = match[1] + match[2]
        if method == "POST":
            place += str(uuid.uuid4())
            self.under_way[place] = bytearray()
        if place not in self.under_way:
            return Answer(404, {})
        kept = self.under_way[place]
        started = headers.get("Content-Range", "").partition("-")[0]
        if started and int(started) != len(kept):
            return Answer(416, self._how_far(place))
        kept += body
        if method == "PUT":
            begun = forward("POST", match[1], b"")
            del self.under_way[place]
            location = urlsplit(begun.headers["Location"])
            return forward("PUT", f"{location.path}?{location.query}&{match['query']}", bytes(kept))
        return Answer(204 if method == "GET" else 202, self._how_far(place))

    def _how_far(self, place: str) -> dict[str, str]:
        return {"Location": place, "Range": f"0-{max(len(self.under_way[place]) - 1, 0)}"}
