"""Puts the searches together: whole files, whatever they are, and all that a script says while it runs."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_run.scan.binary import count_runs
from edge_run.scan.fingerprint import Fingerprint
from edge_run.scan.hashing import find_numpy
from edge_run.scan.onnx import onnx_numbers
from edge_run.scan.text import Evidence, NumberStream, TextSearch
from edge_run.scan.tokens import coded_tokens, is_coded
from edge_run.scan.unpack import Budget, TooMuchError, decode, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from edge_run.policy import Policy

_PRINTABLE = re.compile(rb"[\t\r\n -~]{16,}")
_PIECE = 1 << 20
_SAMPLE = 4096
_MOST_PARTS = 10_000
_KEPT_TOKENS = 16 * 1024

REASONS = {
    "blob": "it is one of the blobs",
    "rows": "it holds neighbouring cells of the training data",
    "cells": "it holds many single cells of the training data",
    "token": "it has long stretches that look encoded",
    "bomb": "it unpacks to more than the policy allows",
}


@dataclass(frozen=True)
class Finding:
    """Why something must not leave; never repeats what it is.

    :param kind: a key of :data:`REASONS`.
    :param where: how it was packed or encoded, from outside to inside, and whether it was text or binary.
    """

    kind: str
    where: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Return a sentence's worth of explanation."""
        packed = ", ".join(self.where)
        return REASONS[self.kind] + (f" ({packed})" if packed else "")


class Scanner:
    """Searches for one run's training data.

    :param paths: the blobs.
    :param policy: the thresholds.
    :param numpy: numpy, or None to do without.
    """

    def __init__(self, paths: Sequence[Path], policy: Policy, numpy: Any = None) -> None:
        self.numpy = numpy
        self.policy = policy
        self.data = Fingerprint(paths, policy.scan_bits, numpy)

    @classmethod
    def best(cls, paths: Sequence[Path], policy: Policy) -> Scanner:
        """Return a scanner that uses numpy if the interpreter has it."""
        return cls(paths, policy, find_numpy())

    @property
    def method(self) -> str:
        """Return ``"numpy"`` or ``"python"``."""
        return "python" if self.numpy is None else "numpy"

    def listen(self) -> Listener:
        """Return what searches all that one script says."""
        return Listener(self)

    def facts(self) -> dict[str, Any]:
        """Return what was searched for, and how, for a record; nothing of the data itself."""
        measures = self.data.measures
        return {
            "method": self.method,
            "rows": measures.rows,
            "columns": measures.columns,
            "cells": measures.cells,
            "row_cells": measures.row_cells,
            "finds_needed": measures.runs_needed,
        }

    def evidence(self) -> Evidence:
        """Return a new collection of evidence."""
        return Evidence(self.data, self.policy.scan_cells)

    def scan(self, content: Any) -> Finding | None:
        """Search a file's content, and all that is packed or encoded in it.

        :param content: bytes, or a map of a file.
        """
        return self._bounded(lambda budget: self._scan(content, budget, (), [0]))

    def scan_encoded(self, text: str) -> Finding | None:
        """Search what is encoded in a piece of text, but not the text itself."""
        content = text.encode("utf-8", "replace")
        return self._bounded(lambda budget: self._scan_inner(decode(content, budget), budget, (), [0]))

    def _bounded(self, search: Callable[[Budget], Finding | None]) -> Finding | None:
        try:
            return search(Budget(self.policy.scan_unpacked_bytes))
        except TooMuchError:
            return Finding("bomb")

    def _scan(self, content: Any, budget: Budget, where: tuple[str, ...], parts: list[int]) -> Finding | None:
        parts[0] += 1
        if parts[0] > _MOST_PARTS:
            raise TooMuchError
        size = len(content)
        if size in self.data.sizes and (size, hashlib.sha256(content).hexdigest()) in self.data.blobs:
            return Finding("blob", where)
        text = _is_text(content)
        kind = self._search_text(content) if text else self._search_binary(content)
        if kind:
            return Finding(kind, (*where, "text" if text else "binary"))
        return self._scan_inner(self._parts(content, budget, text=text), budget, where, parts)

    def _scan_inner(
        self, inner: Iterator[tuple[str, bytes]], budget: Budget, where: tuple[str, ...], parts: list[int]
    ) -> Finding | None:
        for label, part in inner:
            if len(where) >= self.policy.scan_depth:
                raise TooMuchError
            if found := self._scan(part, budget, (*where, label), parts):
                return found
        return None

    def _search_text(self, content: Any) -> str:
        evidence = self.evidence()
        search = TextSearch(evidence)
        for start in range(0, len(content), _PIECE):
            search.feed(bytes(content[start : start + _PIECE]).decode("utf-8", "replace"))
            if kind := evidence.found:
                return kind
        return ""

    def _search_binary(self, content: Any) -> str:
        needed = self.data.measures.runs_needed
        if count_runs(content, self.data, needed) >= needed and self.data.measures.row_cells:
            return "rows"
        return ""

    def _parts(self, content: Any, budget: Budget, *, text: bool) -> Iterator[tuple[str, bytes]]:
        if text:
            yield from decode(bytes(content), budget)
            return
        yield from unpack(content, budget, self.numpy)
        for numbers in onnx_numbers(content):
            budget.spend(len(numbers))
            yield "ONNX", numbers
        wide = _wide_text(content)
        if wide:
            yield "UTF-16", wide
        if printable := b"\n".join(_printable(content, self.numpy)):
            budget.spend(len(printable))
            yield "text in it", printable


class Listener:
    """All that one script says, searched as one: lines, metrics and names belong together, however they are cut up.

    :param scanner: searches.
    """

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._evidence = scanner.evidence()
        self._text, self._names = TextSearch(self._evidence), TextSearch(self._evidence)
        self._values, self._written = NumberStream(self._evidence), TextSearch(self._evidence)
        self._streams: dict[str, NumberStream] = {}
        self._tokens = ""
        self._token_characters = 0
        self._finding: Finding | None = None

    def text(self, text: str) -> tuple[Finding | None, bool]:
        """Search a line of text.

        :returns: why it must not leave, if it must not; and whether it has something that needs a look at all of them together.
        """
        before = self._evidence.traces
        self._text.feed(text)
        return self._judge(text, before)

    def name(self, name: str) -> tuple[Finding | None, bool]:
        """Search a name."""
        before = self._evidence.traces
        self._names.feed(name)
        return self._judge(name, before)

    def metric(self, name: str, value: float, step: int | None) -> tuple[Finding | None, bool]:
        """Search a metric's value and step, among all and among those of its name."""
        before = self._evidence.traces
        self._values.feed([value])
        self._stream(f"{name} value").feed([value])
        self._written.feed(repr(value))
        if step is not None:
            self._stream(f"{name} step").feed([float(step)])
            self._text.cells([float(step)])
        return self._judge("", before)

    def _stream(self, name: str) -> NumberStream:
        return self._streams.setdefault(name, NumberStream(self._evidence))

    def verdict(self) -> Finding | None:
        """Judge all that was said together."""
        kind = self._evidence.found
        return Finding(kind, ("text",)) if kind else self._finding

    def _judge(self, text: str, before: int) -> tuple[Finding | None, bool]:
        tokens = coded_tokens(text)
        finding = self._judge_tokens(tokens) or self._scanner.scan_encoded(text)
        grown = self._evidence.traces > before
        if grown and (kind := self._evidence.found):
            finding = Finding(kind, ("text",))
        if finding and finding.kind != "token":
            self._finding = finding
        return finding, grown or bool(tokens)

    def _judge_tokens(self, tokens: list[str]) -> Finding | None:
        policy = self._scanner.policy
        coded = [token for token in tokens if is_coded(token)]
        self._token_characters += sum(map(len, coded))
        if coded and self._token_characters > policy.token_total:
            self._finding = Finding("token")
            return self._finding
        self._tokens = (self._tokens + "".join(tokens))[-_KEPT_TOKENS:]
        if tokens and (found := self._scanner.scan_encoded(self._tokens)):
            return found
        return Finding("token") if any(len(token) > policy.token_characters for token in coded) else None


def _is_text(content: Any) -> bool:
    """Tell whether it is text for the most part, by its beginning, middle and end."""
    places = {0, max(0, len(content) // 2 - _SAMPLE), max(0, len(content) - _SAMPLE)}
    sample = b"".join(bytes(content[place : place + _SAMPLE]) for place in places)
    odd = sum(1 for one in sample.translate(None, _TEXT_BYTES))
    return odd * 50 <= len(sample)


_TEXT_BYTES = bytes([9, 10, 13, *range(32, 127), *range(160, 256)])


def _wide_text(content: Any) -> bytes:
    """Return a text in UTF-16 or UTF-32 as UTF-8: every other byte of it is zero."""
    sample = bytes(content[:_SAMPLE])
    if len(sample) < 32 or not 0.4 <= sample.count(0) / len(sample) <= 0.8:
        return b""
    plain = bytes(content).replace(b"\0", b"").replace(b"\xff\xfe", b"").replace(b"\xfe\xff", b"")
    return plain if _is_text(plain) else b""


def _printable(content: Any, numpy: Any) -> Iterator[bytes]:
    """Yield the stretches of text in a binary file."""
    if numpy is None or len(content) < _SAMPLE:
        yield from (found.group() for found in _PRINTABLE.finditer(content))
        return
    octets = numpy.frombuffer(content, dtype=numpy.uint8)
    for start in range(0, len(octets), _PIECE):
        part = octets[start : start + _PIECE]
        good = (part - numpy.uint8(32)) < 95
        # Sixteen printable bytes always fill one aligned block of eight.
        blocks = good[: len(good) // 8 * 8].view(numpy.uint64) == 0x0101010101010101
        places = numpy.flatnonzero(blocks)
        for group in numpy.split(places, numpy.flatnonzero(numpy.diff(places) > 1) + 1) if len(places) else ():
            first = max(0, start + int(group[0]) * 8 - 8)
            last = start + (int(group[-1]) + 2) * 8
            yield from (found.group() for found in _PRINTABLE.finditer(bytes(content[first:last])))
