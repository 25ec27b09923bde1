"""What is remembered of the training data, to find it again: hashes of runs of its cells, never a value.

How long a run must be follows from the data: it must be so improbable by chance as ``scan_bits`` says, among as many runs as the
data has. A cell says as much as its column's entropy; the columns are measured on some thousand rows.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edge_run.scan.hashing import (
    CELL,
    DIGITS,
    ROW,
    WORDS,
    BitFilter,
    HashSample,
    double,
    hash_run,
    hash_runs,
    single,
    to_single,
)
from edge_run.scan.patterns import array_patterns, encodings, list_patterns
from edge_run.scan.tables import read_chunks, read_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edge_run.scan.tables import Chunk

# Together below 400 MB, however large the data is: 128 MB of bits, and 8 bytes for each hash.
MOST_BITS = 1 << 30
MOST_RUNS = 6_000_000
MOST_CELLS = 2_000_000
MOST_DIGITS = 19  # that many fit into 64 bits
_LONGEST_RUN = 64
_LEAST_PART = 0.6
_COARSE = 0.25
_SAMPLE_FILES, _SAMPLE_ROWS = 16, 4096
_TELLING_DIGITS = 4
_SHORTEST_WORD = 6
_DIGIT = re.compile(rb"[0-9]+")
_WORD = re.compile(r"\w+")


@dataclass
class Measures:
    """What the data are like.

    :param rows: how many there are.
    :param columns: how many of them hold numbers.
    :param cells: how many cells with numbers there are.
    :param row_cells: how many neighbouring cells make a run; 0 when the numbers say too little to tell rows apart.
    :param runs_needed: how many different runs prove that it is the data.
    :param digits: how many digits from a cell's first on make a run of digits; 0 for none.
    :param digit_runs_needed: how many different runs of digits prove it.
    :param whole: whether all numbers are whole.
    :param entropies: how many bits a cell of each column says, 0 for a column without numbers.
    :param run_bits: how many bits a run must say to count at all.
    """

    rows: int = 0
    columns: int = 0
    cells: int = 0
    row_cells: int = 0
    runs_needed: int = 1
    digits: int = 0
    digit_runs_needed: int = 1
    whole: bool = False
    entropies: tuple[float, ...] = ()
    run_bits: float = 0.0

    def telling_starts(self, entropies: Sequence[float]) -> list[int]:
        """Return the places in a row from which a run says enough: not those in the midst of flags, or of few classes."""
        length = self.row_cells
        sums = [sum(entropies[place : place + length]) for place in range(len(entropies) - length + 1)]
        return [place for place, bits in enumerate(sums) if bits >= self.run_bits]

    def telling_columns(self) -> list[int]:
        """Return the columns whose runs, downwards, say enough."""
        return [place for place, bits in enumerate(self.entropies) if bits * self.row_cells >= self.run_bits]


class Fingerprint:
    """What is remembered of the data.

    :param paths: the blobs.
    :param bits: how improbable by chance a find must be, beyond the size of the data.
    :param numpy: numpy, or None.
    """

    def __init__(self, paths: Sequence[Path], bits: int, numpy: Any) -> None:
        self.numpy = numpy
        self.runs, self.digit_runs = HashSample(MOST_RUNS, numpy), HashSample(MOST_CELLS, numpy)
        self.cells, self.words = HashSample(MOST_CELLS, numpy), HashSample(MOST_CELLS, numpy)
        self.header: set[str] = set()
        self.blobs: set[tuple[int, str]] = set()
        self.sizes: set[int] = set()
        self.measures, self._common = _measure(paths, bits, numpy)
        self._common_values = numpy.array(sorted(self._numbers()), dtype=numpy.float64) if numpy is not None else None
        each = sum(1 if one.together == 1 else 4 for one in encodings(self.measures.whole))
        self.patterns = BitFilter(self.measures.cells * each, MOST_BITS, numpy)
        self.measures.rows = self.measures.cells = 0
        for path in paths:
            self._take(path)
        for sample in (self.runs, self.digit_runs, self.cells, self.words):
            sample.settle()

    def _take(self, path: Path) -> None:
        digest = hashlib.sha256()
        self.header.update(word.lower() for cell in read_header(path) for word in _WORD.findall(cell))
        for chunk in read_chunks(path, self.numpy):
            self._take_chunk(chunk)
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
        self.sizes.add(path.stat().st_size)
        self.blobs.add((path.stat().st_size, digest.hexdigest()))

    def _take_chunk(self, chunk: Chunk) -> None:
        measures = self.measures
        measures.rows += len(chunk.rows)
        texts = (text for text in chunk.texts if text not in self._common)
        self.words.add([hashed for hashed in map(word_hash, texts) if hashed])
        if self.numpy is None:
            measures.cells += sum(value == value for row in chunk.rows for value in row)
            self.patterns.add(list_patterns(chunk.rows, measures.whole))
            self.cells.add(cell_hash(v) for row in chunk.rows for v in row if is_telling(v) and v not in self._common)
            self._take_lists(chunk.rows)
            self.digit_runs.add(_digit_runs(chunk, measures.digits))
        else:
            measures.cells += int((chunk.rows == chunk.rows).sum())
            self._take_array(chunk)
        for row, entropies in _gappy(chunk.rows, measures.entropies, self.numpy):
            self.runs.add(list(run_hashes(row, measures.row_cells, measures.telling_starts(entropies))))

    def _take_lists(self, rows: Sequence[Sequence[float]]) -> None:
        measures = self.measures
        starts, columns = measures.telling_starts(measures.entropies), list(zip(*rows, strict=True))
        self.runs.add(hashed for row in rows for hashed in run_hashes(row, measures.row_cells, starts))
        down = (columns[place] for place in measures.telling_columns() if place < len(columns))
        self.runs.add(hashed for column in down for hashed in run_hashes(column, measures.row_cells))

    def _take_array(self, chunk: Chunk) -> None:
        numpy, rows = self.numpy, chunk.rows
        for patterns in array_patterns(rows, self.measures.whole, numpy):
            self.patterns.add(patterns)
        telling = array_telling(rows, numpy) & ~numpy.isin(rows, self._common_values)
        self.cells.add(hash_runs(CELL, [rows[telling].view(numpy.uint64)], numpy))
        measures = self.measures
        starts = measures.telling_starts(measures.entropies)
        self.runs.add(array_run_hashes(rows, measures.row_cells, numpy, starts))
        down = [place for place in measures.telling_columns() if place < rows.shape[1]]
        self.runs.add(array_run_hashes(rows.T[down], measures.row_cells, numpy))
        self.digit_runs.add(_array_digit_runs(chunk, self.measures.digits, numpy))

    def _numbers(self) -> list[float]:
        return [one for one in self._common if isinstance(one, float)]


def cell_hash(value: float) -> int:
    """Return the hash of one cell's number."""
    return hash_run(CELL, [double(value)])


def word_hash(text: str) -> int:
    """Return the hash of a cell's words, or 0 when they are too short to tell anything."""
    words = " ".join(_WORD.findall(text.lower()))
    if len(words) < _SHORTEST_WORD:
        return 0
    return hash_run(WORDS, [int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big")])


def is_telling(value: float) -> bool:
    """Tell whether a number has at least four significant digits."""
    if value == 0 or value - value != 0:
        return False
    scale = 10.0 ** (math.floor(math.log10(abs(value))) - _TELLING_DIGITS + 2)
    return scale > 0 and abs(round(value / scale) * scale - value) > 1e-9 * abs(value)


def array_telling(values: Any, numpy: Any) -> Any:
    """Tell the same of each number of an array."""
    with numpy.errstate(all="ignore"):
        size = numpy.abs(values)
        good = numpy.isfinite(values) & (values != 0)
        scale = 10.0 ** (numpy.floor(numpy.log10(numpy.where(good, size, 1.0))) - _TELLING_DIGITS + 2)
        return good & (scale > 0) & (numpy.abs(numpy.round(values / scale) * scale - values) > 1e-9 * size)


def run_hashes(values: Sequence[float], length: int, starts: Sequence[int] | None = None) -> Iterator[int]:
    """Yield the hashes of all runs of neighbours that tell something.

    :param starts: where they may begin; None for anywhere.
    """
    if not length:
        return
    bits = [single(value) for value in values]
    rounded = [to_single(one) for one in bits]
    for start in range(len(bits) - length + 1) if starts is None else starts:
        if start + length <= len(bits) and tells(rounded[start : start + length]):
            yield hash_run(ROW, bits[start : start + length])


def tells(run: Sequence[float]) -> bool:
    """Tell whether a run has no gap and turns often enough to be more than a constant, zeros, or a count."""
    steps = [after - before for before, after in pairwise(run)]
    turns = sum(1 for before, after in pairwise(steps) if before != after)
    return turns >= _least_turns(len(run)) and all(value == value for value in run)


def _least_turns(length: int) -> int:
    return max(1, min(2, length - 2), length // 3)


def array_run_hashes(lines: Any, length: int, numpy: Any, starts: Sequence[int] | None = None) -> Any:
    """Return the hashes of all runs within the rows of an array that tell something; where they begin as above."""
    if not length or lines.shape[1] < length or not len(lines):
        return numpy.empty(0, dtype=numpy.uint64)
    bits, good = array_runs(lines, length, numpy)
    count = good.shape[1]
    if starts is not None:
        good &= numpy.isin(numpy.arange(count), starts)
    return hash_runs(ROW, [bits[:, step : step + count][good] for step in range(length)], numpy)


def array_runs(lines: Any, length: int, numpy: Any) -> tuple[Any, Any]:
    """Return the bits of an array's numbers, and where in its rows a run begins that tells something."""
    with numpy.errstate(over="ignore", invalid="ignore"):
        rounded = numpy.ascontiguousarray(lines, dtype=numpy.float32)
        steps = rounded[:, 1:] - rounded[:, :-1]
        turned = steps[:, 1:] != steps[:, :-1]
    count = lines.shape[1] - length + 1
    turns = numpy.zeros((len(lines), count), dtype=numpy.uint8)
    for step in range(length - 2):
        turns += turned[:, step : step + count]
    good = turns >= _least_turns(length)
    gaps = numpy.isnan(rounded)
    if gaps.any():
        for step in range(length):
            good &= ~gaps[:, step : step + count]
    return rounded.view(numpy.uint32).astype(numpy.uint64), good


def _gappy(rows: Any, entropies: Sequence[float], numpy: Any) -> Iterator[tuple[list[float], list[float]]]:
    """Yield the rows that lack numbers somewhere, without the gaps, as they would be written one after the other."""
    chosen = rows if numpy is None else rows[numpy.isnan(rows).any(axis=1)].tolist()
    for row in chosen:
        kept = [(value, bits) for value, bits in zip(row, entropies, strict=False) if value == value]
        if len(kept) < len(row):
            yield [value for value, _ in kept], [bits for _, bits in kept]


def digit_hash(digits: bytes) -> int:
    """Return the hash of a run of digits."""
    return hash_run(DIGITS, [int(digits)])


def _digit_runs(chunk: Chunk, length: int) -> Iterator[int]:
    """Yield the hashes of the runs of digits that begin where a cell begins."""
    if not length:
        return
    cells = [
        b"".join(_DIGIT.findall(cell)) for cell in re.split(rb"[\n" + chunk.delimiter.encode() + b"]", chunk.content)
    ]
    digits, start = b"".join(cells), 0
    for cell in filter(None, cells):
        run = digits[start : start + length]
        if len(run) == length and len(set(run)) > 2:
            yield digit_hash(run)
        start += len(cell)


def _array_digit_runs(chunk: Chunk, length: int, numpy: Any) -> Any:
    content = numpy.frombuffer(chunk.content, dtype=numpy.uint8)
    is_digit = (content - numpy.uint8(48)) < 10
    ends = (content == 10) | (content == ord(chunk.delimiter))
    digits = (content[is_digit] - numpy.uint8(48)).astype(numpy.uint64)
    starts = numpy.concatenate([[0], numpy.cumsum(is_digit)[ends]]).astype(numpy.int64)
    starts = starts[numpy.concatenate([[True], starts[1:] != starts[:-1]])]
    starts = starts[starts + length <= len(digits)]
    if not length or not len(starts):
        return numpy.empty(0, dtype=numpy.uint64)
    return array_digit_hashes(digits, starts, length, numpy)[0]


def array_digit_hashes(digits: Any, starts: Any, length: int, numpy: Any) -> tuple[Any, Any]:
    """Return the hashes of the runs of digits that begin at these places and have at least three different digits, and where."""
    number, seen = numpy.zeros(len(starts), dtype=numpy.uint64), numpy.zeros(len(starts), dtype=numpy.uint16)
    for step in range(length):
        one = digits[starts + step]
        number = number * numpy.uint64(10) + one
        seen |= numpy.uint16(1) << one.astype(numpy.uint16)
    kinds = sum((seen >> numpy.uint16(bit)) & numpy.uint16(1) for bit in range(10))
    return hash_runs(DIGITS, [number[kinds > 2]], numpy), starts[kinds > 2]


def _measure(paths: Sequence[Path], bits: int, numpy: Any) -> tuple[Measures, set[float | str]]:
    """Measure the columns on a sample; also return what is so common in it that it proves nothing."""
    rows, texts, content, total = [], [], 0, sum(path.stat().st_size for path in paths)
    files = paths[:: max(1, len(paths) // _SAMPLE_FILES)]
    for path in files:
        chunk = next(read_chunks(path, numpy), None)
        if chunk is None or not len(chunk.rows):
            continue
        part = chunk.rows[: max(1, _SAMPLE_ROWS // len(files))]
        rows += part if numpy is None else part.tolist()
        texts += chunk.texts[: len(part) * len(part[0])]
        content += len(chunk.content) * len(part) // len(chunk.rows)
    counts: Counter[float | str] = Counter(value for row in rows for value in row if value == value)
    counts.update(texts)
    often = max(3, len(rows) // 200)
    measures = _thresholds(rows, content, total, bits)
    return measures, {value for value, count in counts.items() if count > often}


def _thresholds(rows: list[list[float]], content: int, total: int, bits: int) -> Measures:
    width = max(map(len, rows), default=0)
    columns = [[row[place] for row in rows if place < len(row) and row[place] == row[place]] for place in range(width)]
    entropies = tuple(map(_entropy, columns))
    columns = [column for column in columns if column]
    measures = Measures(columns=len(columns), entropies=entropies)
    if not columns:
        return measures
    measures.whole = all(value == int(value) for column in columns for value in column if abs(value) < math.inf)
    measures.cells = max(1, sum(map(len, columns)) * total // max(1, content))
    # Flags and classes among finer columns would make the runs of these needlessly long.
    telling = [one for one in entropies if one >= max(entropies) * _COARSE]
    each = sum(telling) / len(telling)
    needed = bits + math.log2(measures.cells)
    if each < 0.25:  # the numbers hardly differ: nobody could tell rows apart
        return measures
    wanted = max(3, math.ceil(needed / each))
    # One column fewer than there are: what is to be predicted is often kept apart.
    measures.row_cells = min(wanted, _LONGEST_RUN, len(columns) - 1 if len(columns) > 3 else wanted)
    measures.runs_needed = math.ceil(needed / (each * measures.row_cells))
    measures.run_bits = _LEAST_PART * each * measures.row_cells
    digits_each = content / max(1, sum(map(len, columns))) - 1.5  # a separator, and half a point
    digit_bits = min(math.log2(10), each / max(1.0, digits_each))
    measures.digits = min(MOST_DIGITS, math.ceil(needed / digit_bits))
    measures.digit_runs_needed = math.ceil(needed / (digit_bits * measures.digits))
    return measures


def _entropy(column: list[float]) -> float:
    """Return how many bits a cell of this column says."""
    counts = Counter(column).values()
    return -sum(count / len(column) * math.log2(count / len(column)) for count in counts)
