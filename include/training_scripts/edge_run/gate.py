"""The gate: everything that a script wants to send passes here, is searched for training data, and what passed is remembered.

What is withheld is remembered without its name and its hash, because both could carry data themselves: whoever knows how a
cell may look can try all cells against a hash. What holds a cell of the data, but no proof of more, waits until the script has
ended: by then it is known what the rest of it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_run.files import open_ordinary
from edge_run.scan.onnx import NotOnnxError, check_onnx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_run.policy import Policy
    from edge_run.scan.scanner import Finding, Scanner

PASSED, CUT, WITHHELD, DROPPED = "passed", "cut", "withheld", "dropped"
CHUNK_BYTES = 1024 * 1024
# A probe is a few requests and answers; JSON is easily read, and much of it is data.
JSON_BYTES = 64 * 1024
_LAST_LINES = 12
_MOST_EXPLAINED = 20


@dataclass(frozen=True)
class Item:
    """One thing that the script wanted to send.

    :param kind: ``"metric"``, ``"log"`` or ``"model"``.
    :param name: the metric's or file's name, the log line's stream; ``""`` when it did not leave.
    :param bytes: its size as it left.
    :param sha256: hex digest over what left; ``""`` when nothing did.
    :param verdict: ``"passed"``; ``"cut"`` (a log line left in part); ``"dropped"`` (it stayed for no fault of its own: lines
        beyond the limit of the log, models of a run that failed); ``"withheld"`` (it must not leave).
    :param reason: why it did not pass whole; never repeats what was withheld.
    :param step: a metric's step.
    """

    kind: str
    name: str
    bytes: int
    sha256: str
    verdict: str
    reason: str = ""
    step: int | None = None


@dataclass(frozen=True)
class _Model:
    """A model's file that may leave.

    :param sha256: of its content when it was judged.
    """

    name: str
    bytes: int
    sha256: str


class Gate:
    """Decides about each item by the site's policy, and passes on what may leave.

    :param policy: the limits.
    :param send_metric: takes a permitted metric's name, value and step to Azure ML.
    :param say: prints a permitted line to the run's log.
    :param scanner: knows the training data; without one nothing is searched, which is for runs that fetched none.
    """

    def __init__(
        self,
        policy: Policy,
        send_metric: Callable[[str, float, int | None], None],
        say: Callable[[str], None],
        scanner: Scanner | None = None,
    ) -> None:
        self._policy = policy
        self._send_metric = send_metric
        self._say = say
        self._scanner = scanner
        self._listener = scanner.listen() if scanner else None
        self.items: list[Item] = []
        self._metrics = self._lines = self._line_bytes = self._model_bytes = self._dropped = self._refused = 0
        self._last: dict[str, deque[str]] = {}
        self._names: set[str] = set()
        self._steps: dict[str, int] = {}
        self._waiting: list[tuple[str, tuple[Any, ...]]] = []
        self._waiting_names: set[str] = set()
        self._models: list[_Model] = []

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
        elif step is not None and step < self._steps.get(name, step):
            self._withhold("metric", "its step is smaller than the one before: steps only grow")
        else:
            self._steps[name] = step or 0
            finding, waits = self._search_metric(name, float(value), step)
            if finding:
                self._withhold("metric", finding.reason)
            elif waits or name in self._waiting_names:
                self._waiting_names.add(name)
                self._waiting.append(("metric", (name, float(value), step)))
            else:
                self._pass_metric(name, float(value), step)

    def _search_metric(self, name: str, value: float, step: int | None) -> tuple[Finding | None, bool]:
        """Search a metric's name (once), value and step; tell why it must not leave, and whether it has to wait."""
        if self._listener is None:
            return None, False
        found = [self._listener.metric(name, value, step)]
        if name not in self._names:
            self._names.add(name)
            found.append(self._listener.name(name))
        return next((finding for finding, _ in found if finding), None), any(waits for _, waits in found)

    def _pass_metric(self, name: str, number: float, step: int | None) -> None:
        content = f"{name}={number!r} step={step}".encode()
        digest = hashlib.sha256(content).hexdigest()
        self.items.append(Item("metric", name, len(content), digest, PASSED, step=step))
        self._send_metric(name, number, step)
        self._say(f"metric | {name} = {number:.6g}{'' if step is None else f' (step {step})'}")

    def line(self, stream: str, text: str) -> None:
        """Let a line of text out, cut to the longest that is allowed, with control characters made visible.

        :param stream: ``"stdout"``, ``"stderr"`` or ``"text"``.
        :param text: the line, without its end.
        """
        policy = self._policy
        clean = "".join(letter if letter.isprintable() else _visible(letter) for letter in text.rstrip())
        kept = clean[: policy.log_line_characters]
        size = len(kept.encode("utf-8", "replace"))
        if self._lines >= policy.log_lines or self._line_bytes + size > policy.log_bytes:
            self._drop()
            return
        self._lines += 1
        self._line_bytes += size
        finding, waits = self._listener.text(kept) if self._listener else (None, False)
        if finding:
            self._withhold("log", finding.reason)
        elif waits:
            self._waiting.append(("log", (stream, kept, len(clean) - len(kept))))
        else:
            self._pass_line(stream, kept, len(clean) - len(kept))

    def _pass_line(self, stream: str, kept: str, cut: int) -> None:
        content = kept.encode("utf-8", "replace")
        digest = hashlib.sha256(content).hexdigest()
        reason = f"{cut} characters of the line were cut" if cut else ""
        self._last.setdefault(stream, deque(maxlen=_LAST_LINES)).append(kept)
        self.items.append(Item("log", stream, len(content), digest, CUT if cut else PASSED, reason))
        self._say(f"script | {kept}" + (f" ... ({cut} more characters cut)" if cut else ""))

    def release(self) -> None:
        """Decide about what waits: the script has said all that it will say."""
        waiting, self._waiting = self._waiting, []
        finding = self._listener.verdict() if self._listener else None
        for kind, what in waiting:
            if finding:
                self._withhold(kind, finding.reason)
            elif kind == "metric":
                self._pass_metric(*what)
            else:
                self._pass_line(*what)

    def model(self, name: str, source: Path) -> bool:
        """Decide about a model's file: whether it is a declared one, small enough, of its format, and free of training data.

        :param name: the file's name as the script announced it.
        :param source: the folder that the script wrote to; the script has ended.
        :returns: whether it may leave.
        """
        policy = self._policy
        if name not in policy.model_files:
            return self._withhold("model", f"its name is not one of {', '.join(policy.model_files)}")
        try:
            file = open_ordinary(source / name)
        except OSError:
            return self._withhold("model", "its file is gone, or is not an ordinary one")
        with file:
            size = os.fstat(file.fileno()).st_size
            if self._model_bytes + size > policy.model_bytes:
                return self._withhold("model", f"a run may send {policy.model_bytes} bytes of models")
            content: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        if reason := self._fault(name, content):
            return self._withhold("model", reason)
        self._model_bytes += size
        self._models.append(_Model(name, size, hashlib.sha256(content).hexdigest()))
        return True

    def _fault(self, name: str, content: Any) -> str:
        if name.endswith(".onnx"):
            try:
                check_onnx(content)
            except NotOnnxError as error:
                return f"it is not an ONNX model and nothing else: {error}"
        elif name.endswith(".json") and (len(content) > JSON_BYTES or not _is_json(content)):
            return f"it is not JSON of at most {JSON_BYTES} bytes"
        finding = self._scanner.scan(content) if self._scanner else None
        return finding.reason if finding else ""

    def hand_over(self, source: Path, target: Path) -> list[str]:
        """Copy the models that may leave to where Azure ML takes them; each appears there whole.

        :param source: the folder that the script wrote to.
        :param target: the folder whose files Azure ML takes, at any moment.
        :returns: their names.
        """
        for model in self._models:
            part = target.parent / f".{model.name}.part"
            digest = hashlib.sha256()
            with open_ordinary(source / model.name) as file, part.open("wb") as copy:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    copy.write(chunk)
            if digest.hexdigest() != model.sha256:
                part.unlink()
                raise OSError("a model's file changed after the script had ended")
            part.replace(target / model.name)
            self.items.append(Item("model", model.name, model.bytes, model.sha256, PASSED))
        names = [model.name for model in self._models]
        self._models = []
        return names

    def take_back(self, target: Path) -> None:
        """Let no model leave a run that failed."""
        for place, item in enumerate(self.items):
            if item.kind == "model" and item.verdict == PASSED:
                (target / item.name).unlink(missing_ok=True)
                self.items[place] = Item("model", "", 0, "", DROPPED, _FAILED)
        self.items += [Item("model", "", 0, "", DROPPED, _FAILED) for _ in self._models]
        self._models = []

    @property
    def withheld(self) -> list[Item]:
        """Return what must not leave and did not."""
        return [item for item in self.items if item.verdict == WITHHELD]

    @property
    def dropped_lines(self) -> int:
        """Return how many lines were beyond the limit of the log."""
        return self._dropped

    @property
    def bytes_out(self) -> int:
        """Return how many bytes of the script's left in all."""
        return sum(item.bytes for item in self.items)

    def last_lines(self, stream: str) -> list[str]:
        """Return the last lines of a stream that were let out, such as the end of a traceback."""
        return list(self._last.get(stream, ()))

    def _withhold(self, kind: str, reason: str) -> bool:
        self.items.append(Item(kind, "", 0, "", WITHHELD, reason))
        self._refused += 1
        if self._refused <= _MOST_EXPLAINED:
            self._say(f"gate   | a {kind} was withheld: {reason}")
        elif self._refused == _MOST_EXPLAINED + 1:
            self._say("gate   | more was withheld; see the record")
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


_FAILED = "no model leaves a run that failed"


def _is_json(content: Any) -> bool:
    try:
        json.loads(content[:])
    except (ValueError, RecursionError):
        return False
    return True


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _visible(letter: str) -> str:
    return "    " if letter == "\t" else letter.encode("unicode_escape", "replace").decode()
