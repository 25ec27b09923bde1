"""How cells look in binary files: the eight bytes that a cell, or a few neighbours, take in each encoding.

Neighbours are those of a row and those of a column, in either direction; so an array that was transposed or turned round is found
too. A zero says nothing, and makes no pattern.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Encoding:
    """One way in which numbers are stored.

    :param code: of :mod:`struct` and, with the order of bytes, of numpy.
    :param size: bytes of one number.
    :param gap: bytes between two numbers; the patterns of single numbers find these, too.
    """

    code: str
    size: int
    gap: int = 0

    @property
    def together(self) -> int:
        """Return how many numbers make one pattern of eight bytes."""
        return 8 // self.size


FLOATS = (Encoding("<f4", 4), Encoding(">f4", 4), Encoding("<f8", 8), Encoding(">f8", 8))
# A pickled list has a byte before each number.
SPACED = (Encoding(">f8", 8, 1), Encoding("<f8", 8, 1))
INTEGERS = (Encoding("<i4", 4), Encoding("<i8", 8), Encoding("|u1", 1))
_STRUCT = {"f4": "f", "f8": "d", "i4": "i", "i8": "q", "u1": "B"}
_LARGEST = {"f4": 3.4028234e38, "f8": 1.7976931348623157e308, "i4": 2**31 - 1, "i8": 2**53, "u1": 255}
# So many of the numbers in a pattern must say something, as far as it has so many.
_TELLING = 3


def struct_code(encoding: Encoding) -> str:
    """Return the encoding's code for :mod:`struct`."""
    order = encoding.code[0].replace("|", "<")
    return order + _STRUCT[encoding.code[1:]]


def encodings(whole: bool) -> tuple[Encoding, ...]:
    """Return the encodings that are looked for.

    :param whole: whether the data are whole numbers, which may be stored as integers.
    """
    return FLOATS + INTEGERS if whole else FLOATS


def array_patterns(rows: Any, whole: bool, numpy: Any) -> Iterator[Any]:
    """Yield arrays of all patterns of a block of rows; with numpy.

    :param rows: numbers, NaN where there is none.
    :param whole: whether the data are whole numbers.
    """
    for encoding in encodings(whole):
        kind, size = encoding.code[1:], encoding.size
        good = numpy.isfinite(rows) & (numpy.abs(rows) <= _LARGEST[kind])
        if kind[0] in "iu":
            good &= (rows == numpy.floor(rows)) & (rows >= (0 if kind == "u1" else -_LARGEST[kind]))
        parts = numpy.where(good, rows, 0).astype(encoding.code).view(f"<u{size}").astype(numpy.uint64)
        if encoding.together == 1:
            yield parts[good & (rows != 0)]
        else:
            for axis in (1, 0):
                yield from _neighbours(parts, good, axis, encoding, numpy)


def _neighbours(parts: Any, good: Any, axis: int, encoding: Encoding, numpy: Any) -> Iterator[Any]:
    count = encoding.together
    length = parts.shape[axis] - count + 1
    if length < 1:
        return
    shape = tuple(length if one == axis else parts.shape[one] for one in (0, 1))
    valid, telling = numpy.ones(shape, dtype=bool), numpy.zeros(shape, dtype=numpy.uint8)
    there, back = numpy.zeros(shape, dtype=numpy.uint64), numpy.zeros(shape, dtype=numpy.uint64)
    for step in range(count):
        run = slice(step, step + length)
        place = (slice(None), run) if axis == 1 else (run, slice(None))
        valid &= good[place]
        telling += parts[place] != 0
        there |= parts[place] << numpy.uint64(8 * encoding.size * step)
        back |= parts[place] << numpy.uint64(8 * encoding.size * (count - 1 - step))
    valid &= telling >= min(count, _TELLING)
    yield there[valid]
    yield back[valid]


def list_patterns(rows: Sequence[Sequence[float]], whole: bool) -> Iterator[int]:
    """Yield the same patterns without numpy."""
    lines = [*rows, *map(list, zip(*rows, strict=True))]
    for encoding in encodings(whole):
        count = encoding.together
        for line in rows if count == 1 else lines:
            parts = [_bytes(value, encoding) for value in line]
            for start in range(len(parts) - count + 1):
                run = parts[start : start + count]
                if all(run) and sum(any(part) for part in run) >= min(count, _TELLING):
                    yield int.from_bytes(b"".join(run), "little")
                    if count > 1:
                        yield int.from_bytes(b"".join(reversed(run)), "little")


def _bytes(value: float, encoding: Encoding) -> bytes:
    """Return a number's bytes, or none when it cannot be stored so."""
    kind = encoding.code[1:]
    if not abs(value) <= _LARGEST[kind]:
        return b""
    if kind[0] == "f":
        return struct.pack(struct_code(encoding), value)
    if value != int(value) or value < (0 if kind == "u1" else -_LARGEST[kind]):
        return b""
    return struct.pack(struct_code(encoding), int(value))
