"""Searches text for rows and cells, also when they are spread over many lines, metrics or names.

Numbers count as numbers however they are written, so it does not matter what stands between them or how they are printed; digits
count also by themselves, so it does not matter either when the points are gone.
"""

from __future__ import annotations

import math
import re
from collections import deque
from typing import TYPE_CHECKING

from edge_run.scan.fingerprint import (
    array_digit_hashes,
    array_run_hashes,
    cell_hash,
    digit_hash,
    is_telling,
    run_hashes,
    word_hash,
)
from edge_run.scan.hashing import single, to_single

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_run.scan.fingerprint import Fingerprint

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?", re.ASCII)
_ALONE = re.compile(rf"(?<![A-Za-z0-9_.]){_NUMBER.pattern}", re.ASCII)
_JOINED = re.compile(r"(?<=\d)[_,](?=\d)")
_DIGIT = re.compile(r"[0-9]+")
_WORD = re.compile(r"\w+")
_MOST_WORDS = 4
_MANY = 512
_WORD_WEIGHT = 4
_BESIDE = (1, 2, 3)
_MOST_PLACES = 7
_LONGEST_CELL = 9


class Evidence:
    """What was found so far, of everything that belongs together: one file, or all that one script says.

    :param data: what to look for.
    :param cells_needed: how many different telling cells make a find, in whatever order.
    """

    def __init__(self, data: Fingerprint, cells_needed: int) -> None:
        self.data = data
        self._cells_needed = cells_needed
        self.runs: set[int] = set()
        self.digit_runs = 0
        self.cells: set[int] = set()
        self.words: set[int] = set()
        self.numbers, self.neighbours = 0, 0.0

    def look_up(self, value: float) -> None:
        """Look a telling number up among the data's cells."""
        kept = self.data.cells
        # Longer ones than data are written with are not cells, and would only hide those that are.
        self.numbers += float(f"{value:.{_LONGEST_CELL}g}") == value
        for same in {value, _as_printed(value)}:
            hashed = cell_hash(same)
            if hashed in kept and hashed not in self.cells:
                self.cells.add(hashed)
                unit = _last_place(same)
                near = (round(same + side * step * unit, 9) for step in _BESIDE for side in (1, -1))
                self.neighbours += sum(cell_hash(one) in kept for one in near) / kept.share

    @property
    def found(self) -> str:
        """Return ``"rows"``, ``"cells"``, or ``""`` when there is nothing to prove it."""
        measures = self.data.measures
        if len(self.runs) >= measures.runs_needed or self.digit_runs >= measures.digit_runs_needed:
            return "rows"
        weight = len(self.cells) / self.data.cells.share + _WORD_WEIGHT * len(self.words) / self.data.words.share
        chance = self._by_chance()
        return "cells" if weight >= self._cells_needed + chance + 2 * math.sqrt(chance) else ""

    def _by_chance(self) -> float:
        """Return how many of the numbers would be cells by chance: as many as numbers next to those that were found are."""
        beside = 2 * len(_BESIDE) * len(self.cells)
        return self.numbers * self.neighbours / beside if beside else 0.0

    @property
    def traces(self) -> int:
        """Return a number that grows with whatever is found."""
        return len(self.runs) + self.digit_runs + len(self.cells) + len(self.words)


class NumberStream:
    """Numbers one after the other, searched for runs across all calls.

    :param evidence: where finds are put.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._length = evidence.data.measures.row_cells
        self._last: deque[float] = deque(maxlen=max(0, self._length - 1))

    def feed(self, values: Sequence[float]) -> None:
        """Search numbers together with those before them."""
        if not self._length or not values:
            return
        line = [*self._last, *values]
        self._last.extend(values)
        data = self._evidence.data
        if data.numpy is not None and len(line) > _MANY:
            both = data.numpy.array([line, line[::-1]], dtype=data.numpy.float64)
            hashes = array_run_hashes(both, self._length, data.numpy)
            self._evidence.runs.update(hashes[data.runs.matches(hashes)].tolist())
            return
        for one in (line, line[::-1]):
            self._evidence.runs.update(hashed for hashed in run_hashes(one, self._length) if hashed in data.runs)


class DigitStream:
    """Digits one after the other, whatever stands between them, searched for runs across all calls.

    :param evidence: where finds are put.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._length = evidence.data.measures.digits
        self._rest = ""

    def feed(self, digits: str) -> None:
        """Search digits together with those before them."""
        if not self._length:
            return
        line = self._rest + digits
        places = self._places(line)
        # Finds that overlap are one; after a find the search goes on behind it.
        end = 0
        for place in places:
            if place >= end:
                self._evidence.digit_runs += 1
                end = place + self._length
        self._rest = line[max(end, len(line) - self._length + 1) :]

    def _places(self, line: str) -> list[int]:
        """Return where a run begins, forwards or backwards."""
        length, data = self._length, self._evidence.data
        count = len(line) - length + 1
        if count <= 0:
            return []
        if data.numpy is None or count < _MANY:
            kept = data.digit_runs
            windows = ((place, line[place : place + length]) for place in range(count))
            telling = ((place, run) for place, run in windows if len(set(run)) > 2)
            return [
                place
                for place, run in telling
                if digit_hash(run.encode()) in kept or digit_hash(run[::-1].encode()) in kept
            ]
        numpy = data.numpy
        digits = (numpy.frombuffer(line.encode(), dtype=numpy.uint8) - numpy.uint8(48)).astype(numpy.uint64)
        found: set[int] = set()
        for backwards in (False, True):
            every = numpy.arange(count)
            hashes, starts = array_digit_hashes(digits[::-1] if backwards else digits, every, length, numpy)
            hits = starts[data.digit_runs.matches(hashes)]
            found.update((len(line) - length - hits if backwards else hits).tolist())
        return sorted(found)


class TextSearch:
    """Text, piece after piece, searched for rows and cells across all pieces.

    :param evidence: where finds are put.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        # With and without the numbers of identifiers, such as the keys of JSON.
        self._numbers, self._alone = NumberStream(evidence), NumberStream(evidence)
        self._digits = DigitStream(evidence)

    def feed(self, text: str) -> None:
        """Search a piece of text together with those before it."""
        written = _NUMBER.findall(text)
        values = [float(one) for one in written]
        self._numbers.feed(values)
        self._alone.feed([float(one) for one in _ALONE.findall(text)])
        self.cells(values)
        if _JOINED.search(text):
            joined = _NUMBER.findall(_JOINED.sub(".", text))
            self.cells([float(one) for one in joined])
        self._digits.feed("".join(_DIGIT.findall(text)))
        if len(self._evidence.data.words):
            self._words(text)

    def cells(self, values: Sequence[float]) -> None:
        """Look numbers up among the data's telling cells."""
        if len(self._evidence.data.cells):
            for value in filter(is_telling, values):
                self._evidence.look_up(value)

    def _words(self, text: str) -> None:
        words = _WORD.findall(text.lower())
        header, kept = self._evidence.data.header, self._evidence.data.words
        for start in range(len(words)):
            for end in range(start + 1, min(start + _MOST_WORDS, len(words)) + 1):
                hashed = word_hash(" ".join(words[start:end]))
                if hashed and hashed in kept and not header.issuperset(words[start:end]):
                    self._evidence.words.add(hashed)


def _last_place(value: float) -> float:
    """Return the unit of a number's last decimal place."""
    return next((10.0**-places for places in range(_MOST_PLACES) if round(value, places) == value), 10.0**-_MOST_PLACES)


def _as_printed(value: float) -> float:
    """Return what a number in single precision would be printed as, when it is one: 17.989999771118164 is 17.99."""
    bits = single(value)
    if to_single(bits) != value:
        return value
    shorter = (float(f"{value:.{digits}g}") for digits in range(4, 9))
    return next((one for one in shorter if single(one) == bits), value)
