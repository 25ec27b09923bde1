"""The search for secrets and rows finds them in whatever form they were stored; :mod:`tests.system.test_demo` lets it loose on a demo."""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import struct
import tarfile
from typing import TYPE_CHECKING

import pytest

from local_site import data
from tests.system.stored import Needles, files_below, findings, rows_of_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "fT5qcM8m+Zb/Pw0="
ROWS = [b"17.99,10.38,122.8,1001.0", b"20.57,17.77,132.9,1326.0", b"0.0007929,0.5,0.25,3.0"]
NEEDLES = Needles.of({"a key": SECRET}, [b"a,b,c,d\n" + b"\n".join(ROWS)])


def packed(content: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        entry = tarfile.TarInfo("rows.csv")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


@pytest.mark.parametrize(
    "hide",
    [
        lambda row: b"some text " + row + b" and more",
        lambda row: row.replace(b",", b"\t"),
        lambda row: json.dumps({"row": row.decode().split(",")}).encode(),
        lambda row: b"\n".join(b"column = " + cell for cell in row.split(b",")),
        gzip.compress,
        packed,
        lambda row: b"x" + base64.b64encode(b"a header of some length, and then: " + row + b" and the rest") + b"x",
        lambda row: base64.b64encode(gzip.compress(row * 20)),
        lambda row: b"head" + struct.pack("<4d", *map(float, row.split(b","))),
        lambda row: b"odd" + struct.pack("<4f", *map(float, row.split(b","))),
        lambda row: struct.pack(">4d", *map(float, row.split(b","))),
    ],
)
@pytest.mark.parametrize("row", ROWS[:2])
def test_a_row_is_found_in_every_form(row: bytes, hide: Callable[[bytes], bytes]) -> None:
    assert list(findings("here", hide(row), NEEDLES))


def test_a_long_cell_is_found_alone_and_a_secret_anywhere() -> None:
    assert list(findings("here", b"value=0.0007929;", NEEDLES)) == ["here: a long cell of the data"]
    assert list(findings("here", b"x" + SECRET.encode() + b"x", NEEDLES)) == ["here: a key"]
    assert list(findings("here", gzip.compress(SECRET.encode()), NEEDLES)) == ["here > gzip: a key"]


@pytest.mark.parametrize("honest", [b"", b"17.99 and 20.57", b"0.5,0.25,3.0", b"10.38 17.99 122.8", bytes(1000)])
def test_what_is_no_row_is_not_found(honest: bytes) -> None:
    assert list(findings("here", honest, NEEDLES)) == []


def test_files_and_tables_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "rows.bin").write_bytes(ROWS[0])
    database = sqlite3.connect(tmp_path / "state.sqlite3")
    database.execute("create table runs (name text, content blob)")
    database.execute("create table logins (key text)")
    database.execute("insert into runs values (?, ?)", ("r", json.dumps(ROWS[1].decode().split(","))))
    database.execute("insert into logins values (?)", (SECRET,))
    database.commit()
    database.close()
    found = [one for place, content in files_below(tmp_path / "deep") for one in findings(place, content, NEEDLES)]
    assert found == ["deep/rows.bin: neighbouring cells of a row"]
    tables = dict(rows_of_sqlite(tmp_path / "state.sqlite3", left_out=["logins"]))
    assert set(tables) == {"table runs"}
    assert list(findings("runs", tables["table runs"], NEEDLES)) == ["runs: neighbouring cells of a row"]


def test_the_demo_s_data_has_enough_that_can_be_found() -> None:
    tables = [content for name, content in data.blobs().items() if name.endswith(".csv")]
    needles = Needles.of({}, tables)
    assert len(needles.triples) > 10_000
    assert len(needles.cells) > 3
