"""Searches bytes for runs of cells, stored in any of the usual encodings, at any place.

First each eight bytes are looked up among the patterns of the data, which almost nothing passes; then the numbers around each
place that did are read in every encoding and their runs looked up among the data's.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from edge_run.scan.fingerprint import array_runs, run_hashes
from edge_run.scan.hashing import ROW, hash_runs
from edge_run.scan.patterns import SPACED, Encoding, encodings, struct_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_run.scan.fingerprint import Fingerprint

_PART = 1 << 20
_BLOCK = 64
_AROUND = 128
_AT_ONCE = 4096


def count_runs(content: Any, data: Fingerprint, enough: int) -> int:
    """Return how many different runs of the data's cells there are; no more are counted than are enough.

    :param content: bytes, or anything with the same buffer.
    :param data: what to look for.
    :param enough: at least 1.
    """
    if not data.measures.row_cells or len(content) < 8:
        return 0
    found: set[int] = set()
    kinds = encodings(data.measures.whole) + SPACED
    for places in _candidates(memoryview(content), data):
        for encoding in kinds:
            if data.numpy is None:
                found.update(_runs_around(content, places, encoding, data))
            else:
                found.update(_array_runs_around(content, places, encoding, data))
            if len(found) >= enough:
                return enough
    return len(found)


def _candidates(content: memoryview, data: Fingerprint) -> Iterator[list[int]]:
    """Yield places, a few thousand at a time, from which to look around; one for each block of bytes and alignment."""
    waiting: list[int] = []
    for start in range(0, len(content) - 7, _PART):
        part = content[start : start + _PART + 7]
        seen = set()
        for offset in range(min(8, len(part) - 7)):
            words = part[offset : offset + (len(part) - offset) // 8 * 8]
            for place in _hits(words, data):
                position = start + offset + 8 * place
                seen.add((position // _BLOCK * _BLOCK) + position % 8)
        waiting += sorted(seen)
        while len(waiting) >= _AT_ONCE:
            yield waiting[:_AT_ONCE]
            waiting = waiting[_AT_ONCE:]
    if waiting:
        yield waiting


def _hits(words: memoryview, data: Fingerprint) -> list[int]:
    """Return which of the words may be patterns of the data; a word like the one before it is left out."""
    if data.numpy is None:
        numbers = words.cast("Q")
        patterns, before, places = data.patterns, 0, []
        for place, number in enumerate(numbers):
            if number != before and number in patterns:
                places.append(place)
            before = number
        return places
    numpy = data.numpy
    array = numpy.frombuffer(words, dtype=numpy.uint64)
    places = data.patterns.look_up(array)
    changed = (places == 0) | (array[places] != array[places - 1])
    found: list[int] = places[changed].tolist()
    return found


def _span(place: int, encoding: Encoding, length: int) -> tuple[int, int]:
    """Return where reading begins for a place, and how many numbers are read."""
    pace = encoding.size + encoding.gap
    return place - _AROUND // pace * pace, (2 * _AROUND + _BLOCK) // pace + length


def _runs_around(content: Any, places: list[int], encoding: Encoding, data: Fingerprint) -> Iterator[int]:
    length, read = data.measures.row_cells, struct.Struct(struct_code(encoding)).unpack
    for place in places:
        begin, count = _span(place, encoding, length)
        pace = encoding.size + encoding.gap
        begin += max(0, -(begin // pace)) * pace
        count = max(0, min(count, (len(content) - begin + encoding.gap) // pace))
        spaced = bytes(content[begin : begin + count * pace])
        values = [float(one[0]) for one in map(read, _slices(spaced, encoding))]
        for line in (values, values[::-1]):
            yield from (hashed for hashed in run_hashes(line, length) if hashed in data.runs)


def _slices(spaced: bytes, encoding: Encoding) -> list[bytes]:
    pace = encoding.size + encoding.gap
    return [spaced[start : start + encoding.size] for start in range(0, len(spaced) - encoding.size + 1, pace)]


def _array_runs_around(content: Any, places: list[int], encoding: Encoding, data: Fingerprint) -> list[int]:
    numpy, length = data.numpy, data.measures.row_cells
    octets = numpy.frombuffer(content, dtype=numpy.uint8)
    begin, count = _span(0, encoding, length)
    starts = numpy.array(places)[:, None] + begin + (encoding.size + encoding.gap) * numpy.arange(count)[None, :]
    inside = (starts >= 0) & (starts + encoding.size <= len(octets))
    spread = numpy.where(inside, starts, 0)[:, :, None] + numpy.arange(encoding.size)
    with numpy.errstate(over="ignore", invalid="ignore"):
        values = octets[spread].view(encoding.code)[:, :, 0].astype(numpy.float32)
    values[~inside] = numpy.nan
    found: list[int] = []
    for lines in (values, values[:, ::-1]):
        bits, good = array_runs(lines, length, numpy)
        hashes = hash_runs(ROW, [bits[:, step : step + good.shape[1]][good] for step in range(length)], numpy)
        found += hashes[data.runs.matches(hashes)].tolist()
    return found
