"""The gate: everything that a script wants to send passes here, and what passed is remembered.

What is withheld is remembered without its name and its hash, because both could carry data themselves: whoever knows how a
cell may look can try all cells against a hash.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_run.files import open_ordinary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_run.policy import Policy

PASSED, CUT, WITHHELD, DROPPED = "passed", "cut", "withheld", "dropped"
CHUNK_BYTES = 1024 * 1024
_LAST_LINES = 12


@dataclass(frozen=True)
class Item:
    """One thing that the script wanted to send.

    :param kind: ``"metric"``, ``"log"`` or ``"model"``.
    :param name: the metric's or file's name, the log line's stream; ``""`` when it was withheld.
    :param bytes: its size as it left.
    :param sha256: hex digest over what left; ``""`` when nothing did.
    :param verdict: ``"passed"``; ``"cut"`` (a log line left in part); ``"dropped"`` (a log line beyond the limit, which is no
        fault of the script); ``"withheld"`` (it must not leave, and the run fails).
    :param reason: why it did not pass whole; never repeats what was withheld.
    """

    kind: str
    name: str
    bytes: int
    sha256: str
    verdict: str
    reason: str = ""


class Gate:
    """Decides about each item by the site's policy, and passes on what may leave.

    :param policy: the limits.
    :param send_metric: takes a permitted metric's name, value and step to Azure ML.
    :param say: prints a permitted line to the run's log.
    """

    def __init__(
        self, policy: Policy, send_metric: Callable[[str, float, int | None], None], say: Callable[[str], None]
    ) -> None:
        self._policy = policy
        self._send_metric = send_metric
        self._say = say
        self.items: list[Item] = []
        self._metrics = self._lines = self._line_bytes = self._model_bytes = self._dropped = 0
        self._last: dict[str, deque[str]] = {}

    def metric(self, name: str, value: float, step: int | None) -> None:
        """Let a metric's value out, if its name and value are what metrics are."""
        self._metrics += 1
        policy = self._policy
        if not re.fullmatch(policy.metric_pattern, name):
            self._withhold("metric", f"its name does not match {policy.metric_pattern}")
        elif not _is_finite(value):
            self._withhold("metric", "its value is not a finite number")
        elif self._metrics > policy.metric_values:
            self._withhold("metric", f"a run may send {policy.metric_values} metric values")
        else:
            number = float(value)
            at = "" if step is None else f" (step {step})"
            self._pass("metric", name, f"{name}={number!r} step={step}".encode())
            self._send_metric(name, number, step)
            self._say(f"metric | {name} = {number:.6g}{at}")

    def line(self, stream: str, text: str) -> None:
        """Let a line of text out, cut to the longest that is allowed, with control characters made visible.

        :param stream: ``"stdout"``, ``"stderr"`` or ``"text"``.
        :param text: the line, without its end.
        """
        policy = self._policy
        clean = "".join(letter if letter.isprintable() else _visible(letter) for letter in text.rstrip())
        kept = clean[: policy.log_line_characters]
        content = kept.encode("utf-8", "replace")
        if self._lines >= policy.log_lines or self._line_bytes + len(content) > policy.log_bytes:
            self._drop()
            return
        self._lines += 1
        self._line_bytes += len(content)
        cut = len(clean) - len(kept)
        self._last.setdefault(stream, deque(maxlen=_LAST_LINES)).append(kept)
        self._pass("log", stream, content, f"{cut} characters of the line were cut" if cut else "")
        self._say(f"script | {kept}" + (f" ... ({cut} more characters cut)" if cut else ""))

    def model(self, name: str, source: Path, target: Path) -> bool:
        """Copy a model's file out, if it is a declared one and small enough.

        :param name: the file's name as the script announced it.
        :param source: the folder that the script wrote to; the script has ended.
        :param target: the folder whose files Azure ML takes.
        :returns: whether it was let out.
        """
        policy = self._policy
        if name not in policy.model_files:
            return self._withhold("model", f"its name is not one of {', '.join(policy.model_files)}")
        try:
            file = open_ordinary(source / name)
        except OSError:
            return self._withhold("model", "its file is gone, or is not an ordinary one")
        with file:
            if self._model_bytes + os.fstat(file.fileno()).st_size > policy.model_bytes:
                return self._withhold("model", f"a run may send {policy.model_bytes} bytes of models")
            digest, size = hashlib.sha256(), 0
            with (target / f".{name}.part").open("wb") as copy:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += copy.write(chunk)
        (target / f".{name}.part").replace(target / name)
        self._model_bytes += size
        self.items.append(Item("model", name, size, digest.hexdigest(), PASSED))
        return True

    @property
    def withheld(self) -> list[Item]:
        """Return what must not leave and did not."""
        return [item for item in self.items if item.verdict == WITHHELD]

    @property
    def bytes_out(self) -> int:
        """Return how many bytes of the script's left in all."""
        return sum(item.bytes for item in self.items)

    def last_lines(self, stream: str) -> list[str]:
        """Return the last lines of a stream that were let out, such as the end of a traceback."""
        return list(self._last.get(stream, ()))

    def _pass(self, kind: str, name: str, content: bytes, cut: str = "") -> None:
        digest = hashlib.sha256(content).hexdigest()
        self.items.append(Item(kind, name, len(content), digest, CUT if cut else PASSED, cut))

    def _withhold(self, kind: str, reason: str) -> bool:
        self.items.append(Item(kind, "", 0, "", WITHHELD, reason))
        self._say(f"gate   | a {kind} was withheld: {reason}")
        return False

    def _drop(self) -> None:
        """Count a line beyond the limit; one item stands for all of them."""
        self._dropped += 1
        if self._dropped == 1:
            self._say("gate   | the script has used up what a run may log; its further lines stay here")
        else:
            self.items.remove(self._dropped_item(self._dropped - 1))
        self.items.append(self._dropped_item(self._dropped))

    def _dropped_item(self, lines: int) -> Item:
        return Item("log", "", 0, "", DROPPED, f"{lines} lines beyond the limit of the log")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _visible(letter: str) -> str:
    return "    " if letter == "\t" else letter.encode("unicode_escape", "replace").decode()
