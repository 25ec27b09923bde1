"""How runs of cells become numbers that can be looked up, and the two sets that hold them.

Each function exists once for single numbers and once for numpy's arrays; both give the same numbers.
"""

from __future__ import annotations

import importlib
import struct
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MASK = 0xFFFFFFFFFFFFFFFF
_FACTOR = 0x9E3779B97F4A7C15
_SHIFT = 29
# Different kinds of things share one set; the number that a hash begins with keeps them apart.
ROW, DIGITS, WORDS, CELL = 1, 2, 3, 4
_FEW, _PART = 500_000, 16


def find_numpy() -> Any:
    """Return numpy when the interpreter has it, else None; by name, because nothing here may depend on it."""
    try:
        return importlib.import_module("numpy")
    except ImportError:
        return None


def hash_run(kind: int, numbers: Iterable[int]) -> int:
    """Return the hash of a run of numbers.

    :param kind: one of the kinds above.
    :param numbers: each from 0 to 2**64 - 1.
    """
    state = kind
    for number in numbers:
        state = ((state ^ number) * _FACTOR) & MASK
        state ^= state >> _SHIFT
    return state


def hash_runs(kind: int, columns: Sequence[Any], numpy: Any) -> Any:
    """Return the hashes of many runs: the first of each column make the first run, and so on."""
    state = numpy.full(columns[0].shape, kind, dtype=numpy.uint64)
    for column in columns:
        state ^= column
        state *= numpy.uint64(_FACTOR)
        state ^= state >> numpy.uint64(_SHIFT)
    return state


def single(value: float) -> int:
    """Return a number's bits in single precision; what is too large for it becomes infinity."""
    try:
        found: int = struct.unpack("<I", struct.pack("<f", value))[0]
    except OverflowError:
        found = 0x7F800000
    return found


def to_single(bits: int) -> float:
    """Return the number that these bits of single precision are."""
    found: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return found


def double(value: float) -> int:
    """Return a number's bits in double precision."""
    found: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return found


class HashSample:
    """A set of hashes that never outgrows its limit: when there are too many, it keeps the smaller half of all possible hashes.

    What is kept is exact, so a hit is never an accident of the set; with ``share`` below 1 a part of the hits is missed.

    :param limit: the most hashes that are kept.
    :param numpy: numpy, or None.
    """

    def __init__(self, limit: int, numpy: Any) -> None:
        self._limit = limit
        self._numpy = numpy
        self._bound = MASK
        self._kept: Any = [] if numpy is None else numpy.empty(0, dtype=numpy.uint64)
        self._new: list[Any] = []
        self._waiting = 0

    @property
    def share(self) -> float:
        """Return which part of all hashes is kept."""
        return (self._bound + 1) / (MASK + 1)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, hashes: Any) -> None:
        """Add hashes: an array with numpy, any iterable of numbers without."""
        if self._numpy is None:
            fresh = [one for one in hashes if one <= self._bound]
        else:
            fresh = self._numpy.asarray(hashes, dtype=self._numpy.uint64).ravel()
            fresh = fresh[fresh <= self._numpy.uint64(self._bound)]
        self._new.append(fresh)
        self._waiting += len(fresh)
        if self._waiting > self._limit // 4:
            self.settle()

    def settle(self) -> None:
        """Sort what was added into the rest; looking up needs it."""
        if self._numpy is None:
            self._kept = sorted({*self._kept, *(one for part in self._new for one in part)})
        elif self._new:
            # Sorting beats numpy's own unique() by far here. In place, and with nothing kept besides, for this is when memory is short.
            parts, self._kept, self._new = [self._kept, *self._new], None, []
            every = self._numpy.concatenate(parts)
            parts.clear()
            every.sort()
            self._kept = every[self._numpy.concatenate([[True], every[1:] != every[:-1]])] if len(every) else every
        self._new, self._waiting = [], 0
        while len(self._kept) > self._limit:
            self._bound >>= 1
            # A copy, because a part of an array keeps the whole of it.
            self._kept = self._kept[: bisect_left(self._kept, self._bound + 1)].copy()

    def __contains__(self, hashed: int) -> bool:
        if hashed > self._bound or not len(self._kept):
            return False
        place = bisect_left(self._kept, hashed)
        return place < len(self._kept) and int(self._kept[place]) == hashed

    def matches(self, hashes: Any) -> Any:
        """Return for each of an array of hashes whether it is kept; with numpy only."""
        numpy = self._numpy
        found = numpy.zeros(hashes.shape, dtype=bool)
        if not len(self._kept):
            return found
        possible = numpy.nonzero(hashes <= numpy.uint64(self._bound))
        wanted = hashes[possible]
        places = numpy.minimum(numpy.searchsorted(self._kept, wanted), len(self._kept) - 1)
        found[possible] = self._kept[places] == wanted
        return found


class BitFilter:
    """A set of 8-byte patterns in few bits: it never misses what it holds, and rarely takes something else for it.

    All bits of a pattern lie in one word of 64, so that looking up costs one access to memory.

    :param expected: about how many patterns will be added.
    :param most_bits: the most memory in bits, a power of two.
    :param numpy: numpy, or None.
    """

    _BITS_EACH = 16

    def __init__(self, expected: int, most_bits: int, numpy: Any) -> None:
        self._numpy = numpy
        bits = 1 << max(16, (max(1, expected) * self._BITS_EACH - 1).bit_length())
        self._order = (min(bits, most_bits) // 64).bit_length() - 1
        # Of many patterns only a part is kept, those whose hash is small: a row has many, and looking up costs most of the time.
        self.thin = max(1 if expected < _FEW else _PART, bits // most_bits)
        self.bound = MASK // self.thin
        self.words: Any = (
            bytearray(8 << self._order) if numpy is None else numpy.zeros(1 << self._order, dtype=numpy.uint64)
        )

    def add(self, patterns: Any) -> None:
        """Add patterns: an array with numpy, any iterable of numbers without."""
        if self._numpy is None:
            for place, bits in filter(None, map(self._split, patterns)):
                word = int.from_bytes(self.words[place : place + 8], "little") | bits
                self.words[place : place + 8] = word.to_bytes(8, "little")
            return
        places, bits = self._split_all(patterns)
        self._numpy.bitwise_or.at(self.words, places, bits)

    def __contains__(self, pattern: int) -> bool:
        found = self._split(pattern)
        return found is not None and int(self._word(found[0])) & found[1] == found[1]

    def _word(self, place: int) -> Any:
        if self._numpy is None:
            return int.from_bytes(self.words[place : place + 8], "little")
        return self.words[place // 8]

    def _split(self, pattern: int) -> tuple[int, int] | None:
        """Return the byte where a pattern's word begins and its bits, or None when it is not one of those that are kept."""
        state = (pattern * _FACTOR) & MASK
        state ^= state >> 32
        state = (state * _FACTOR) & MASK
        if state > self.bound:
            return None
        state = (state * self.thin) & MASK
        bits = 1 << (state >> 12 & 63) | 1 << (state >> 18 & 63) | 1 << (state >> 24 & 63) | 1 << (state >> 30 & 63)
        return (state >> (64 - self._order)) * 8, bits

    def _split_all(self, patterns: Any) -> tuple[Any, Any]:
        numpy = self._numpy
        state = self.thinned(patterns)[1]
        return self._places(state), self._bits(state, numpy)

    def thinned(self, patterns: Any) -> tuple[Any, Any]:
        """Return which of an array of patterns are of the part that is kept, or None for all, and their hashes; numpy only."""
        numpy = self._numpy
        state = patterns * numpy.uint64(_FACTOR)
        state ^= state >> numpy.uint64(32)
        state *= numpy.uint64(_FACTOR)
        if self.thin == 1:
            return None, state
        chosen = numpy.flatnonzero(state <= numpy.uint64(self.bound))
        return chosen, state[chosen] * numpy.uint64(self.thin)

    def look_up(self, patterns: Any) -> Any:
        """Return the places in an array of patterns of those that may be in the set; with numpy only."""
        numpy = self._numpy
        chosen, state = self.thinned(patterns)
        words = self.words.take(self._places(state))
        # The first bit sorts out nearly everything; the others are looked at for the rest only.
        some = numpy.flatnonzero((words >> ((state >> numpy.uint64(12)) & numpy.uint64(63))) & numpy.uint64(1))
        bits = self._bits(state[some], numpy)
        some = some[(words[some] & bits) == bits]
        return some if chosen is None else chosen[some]

    def _places(self, state: Any) -> Any:
        return (state >> self._numpy.uint64(64 - self._order)).view(self._numpy.int64)

    @staticmethod
    def _bits(state: Any, numpy: Any) -> Any:
        one, low = numpy.uint64(1), numpy.uint64(63)
        bits = one << ((state >> numpy.uint64(12)) & low)
        for shift in (18, 24, 30):
            bits |= one << ((state >> numpy.uint64(shift)) & low)
        return bits
