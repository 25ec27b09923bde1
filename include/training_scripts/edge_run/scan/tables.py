"""Reads the blobs into rows of cells, a megabyte at a time: what is a number becomes one, what is not stays text.

A blob that is no table is one column of text to it, which does no harm.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK_BYTES = 1024 * 1024
_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Chunk:
    """Some whole rows of a blob.

    :param rows: one number per cell, NaN where there is none: an array with numpy, lists of equal length without.
    :param texts: the cells that are not numbers.
    :param content: the rows as they lie in the blob.
    :param delimiter: what separates cells.
    """

    rows: Any
    texts: list[str]
    content: bytes
    delimiter: str


def read_chunks(path: Path, numpy: Any) -> Iterator[Chunk]:
    """Yield the blob's rows in order, without its header.

    :param path: where the blob is.
    :param numpy: numpy, or None.
    """
    with path.open("rb") as file:
        first = file.readline(CHUNK_BYTES)
        delimiter = max(_DELIMITERS, key=lambda one: first.count(one.encode()))
        if any(not math.isnan(number) for number in map(to_number, _cells(first, delimiter))):
            file.seek(0)
        while lines := file.readlines(CHUNK_BYTES):
            content = b"".join(lines)
            yield _parse(content, delimiter, numpy)


def read_header(path: Path) -> list[str]:
    """Return the cells of a blob's first line."""
    with path.open("rb") as file:
        first = file.readline(CHUNK_BYTES)
    return _cells(first, max(_DELIMITERS, key=lambda one: first.count(one.encode())))


def to_number(text: str) -> float:
    """Return a cell's number, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _cells(line: bytes, delimiter: str) -> list[str]:
    text = line.decode("utf-8-sig", "replace").rstrip("\r\n")
    return [cell.strip().strip('"') for cell in text.split(delimiter)]


def _parse(content: bytes, delimiter: str, numpy: Any) -> Chunk:
    if numpy is not None:
        try:
            rows = numpy.loadtxt(io.BytesIO(content), delimiter=delimiter, comments=None, ndmin=2, dtype=numpy.float64)
        except ValueError:
            pass
        else:
            return Chunk(rows, [], content, delimiter)
    text = content.decode("utf-8", "replace").replace("\0", " ")
    try:
        cells = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except csv.Error:
        cells = [[line] for line in text.splitlines()]
    numbers = [[to_number(cell) for cell in row] for row in cells]
    texts = [
        cell
        for row, values in zip(cells, numbers, strict=True)
        for cell, value in zip(row, values, strict=True)
        if math.isnan(value) and cell.strip()
    ]
    columns = list(itertools.zip_longest(*numbers, fillvalue=math.nan))
    square = [list(row) for row in zip(*columns, strict=True)]
    return Chunk(square if numpy is None else numpy.array(square, dtype=numpy.float64), texts, content, delimiter)
