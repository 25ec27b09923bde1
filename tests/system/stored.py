"""Everything that the parts of the demo have stored, and the search in it for what must be nowhere: secrets, and rows of the data.

A row is found by three of its neighbouring cells, whatever stands between them; as text, as floating-point numbers, and inside base64, gzip
and tar. All rows are looked for, not a sample of them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sqlite3
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

NEIGHBOURS = 3
# A cell that is as long as this is no number that came about by chance.
LONG_CELL = 9
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{40,}")
_GZIP = b"\x1f\x8b"
# Models and records are smaller; numbers are looked for byte by byte.
_SMALL_BYTES = 256 * 1024
# Only the layers of the base image and of the serving dependencies are larger, which are made without the data.
_LARGE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Needles:
    """What is looked for.

    :param secrets: a name for people → the secret.
    :param triples: neighbouring cells of all rows, as they are written.
    :param numbers: the same as floating-point numbers of both sizes and orders, by how many bytes they take.
    :param cells: cells that are long enough to be found alone.
    """

    secrets: Mapping[str, bytes]
    triples: frozenset[tuple[bytes, ...]]
    numbers: Mapping[int, frozenset[bytes]]
    cells: frozenset[bytes]

    @classmethod
    def of(cls, secrets: Mapping[str, str], tables: Iterable[bytes]) -> Needles:
        """Make them of secrets and of CSV files with a header.

        :param secrets: a name for people → the secret.
        :param tables: the files.
        """
        rows = [line.strip().split(b",") for table in tables for line in table.splitlines()[1:]]
        triples = {
            tuple(row[at : at + NEIGHBOURS])
            for row in rows
            for at in range(len(row) - NEIGHBOURS + 1)
            # Three short cells in a row (0,0,1) are found everywhere.
            if sum(len(cell) for cell in row[at : at + NEIGHBOURS]) >= 4 * NEIGHBOURS
        }
        return cls(
            secrets={name: secret.encode() for name, secret in secrets.items()},
            triples=frozenset(triples),
            numbers={size: _packed(triples, forms) for size, forms in {12: ("<3f", ">3f"), 24: ("<3d", ">3d")}.items()},
            cells=frozenset(cell for row in rows for cell in row if len(cell) >= LONG_CELL),
        )


def findings(place: str, content: bytes, needles: Needles, depth: int = 3) -> Iterator[str]:
    """Yield what was found in some bytes, one sentence each, without repeating it.

    :param place: where they were stored.
    :param content: the bytes.
    :param needles: what is looked for.
    :param depth: how deeply packed content is opened.
    """
    yield from (f"{place}: {name}" for name, secret in needles.secrets.items() if secret in content)
    if len(content) > _LARGE_BYTES:
        return
    yield from _rows_as_text(place, content, needles)
    if len(content) <= _SMALL_BYTES:
        yield from _rows_as_numbers(place, content, needles)
    for kind, inner in _opened(content) if depth else ():
        yield from findings(f"{place} > {kind}", inner, needles, depth - 1)


def _rows_as_text(place: str, content: bytes, needles: Needles) -> Iterator[str]:
    numbers = _NUMBER.findall(content)
    if not needles.cells.isdisjoint(numbers):
        yield f"{place}: a long cell of the data"
    if any(triple in needles.triples for triple in zip(numbers, numbers[1:], numbers[2:], strict=False)):
        yield f"{place}: neighbouring cells of a row"


def _rows_as_numbers(place: str, content: bytes, needles: Needles) -> Iterator[str]:
    for size, known in needles.numbers.items():
        windows = {content[at : at + size] for at in range(len(content) - size + 1)}
        if not known.isdisjoint(windows):
            yield f"{place}: neighbouring cells of a row as floating-point numbers"


def _packed(triples: Iterable[tuple[bytes, ...]], forms: Iterable[str]) -> frozenset[bytes]:
    rows = [tuple(float(cell) for cell in triple) for triple in triples]
    return frozenset(struct.pack(form, *row) for row in rows for form in forms)


def _opened(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what is packed or encoded in some bytes."""
    if content.startswith(_GZIP):
        try:
            yield "gzip", zlib.decompressobj(wbits=31).decompress(content)
        except zlib.error:
            return
    for token in _BASE64.findall(content):
        for begin in range(4):
            usable = (len(token) - begin) // 4 * 4
            try:
                yield "base64", base64.b64decode(token[begin : begin + usable])
            except binascii.Error:
                continue


def files_below(folder: Path, pattern: str = "*") -> Iterator[tuple[str, bytes]]:
    """Yield the files of a folder with what they hold.

    :param folder: the folder.
    :param pattern: of the files' names.
    """
    for path in sorted(folder.rglob(pattern)):
        if path.is_file():
            yield str(path.relative_to(folder.parent)), path.read_bytes()


def rows_of_sqlite(path: Path, left_out: Iterable[str] = ()) -> Iterator[tuple[str, bytes]]:
    """Yield each table of an SQLite database as text.

    :param path: the database, which may be in use.
    :param left_out: tables that are not wanted.
    """
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        for table in sorted(set(tables) - set(left_out)):
            rows = database.execute(f'select * from "{table}"').fetchall()  # noqa: S608 - the name is the database's own
            yield f"table {table}", "\n".join(_text(row) for row in rows).encode()
    database.close()


def rows_of_sql(url: str) -> Iterator[tuple[str, bytes]]:
    """Yield each table of a database as text.

    :param url: SQLAlchemy's address of it.
    """
    from sqlalchemy import MetaData, create_engine, select

    engine = create_engine(url)
    try:
        tables = MetaData()
        tables.reflect(engine)
        with engine.connect() as connection:
            for table in tables.sorted_tables:
                rows = connection.execute(select(table)).all()
                yield f"table {table.name}", "\n".join(_text(row) for row in rows).encode()
    finally:
        engine.dispose()


def _text(row: Iterable[object]) -> str:
    return json.dumps([value.hex() if isinstance(value, bytes) else str(value) for value in row], ensure_ascii=False)
