"""Training data is found however it is written, with numpy and without; what is not training data is not."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import mmap
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from edge_run.policy import Policy
from edge_run.scan.hashing import find_numpy
from edge_run.scan.scanner import Scanner
from edge_run.scan.text import TextSearch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

numpy = find_numpy()
METHODS = {"numpy": numpy, "python": None}
WIDTH, HEIGHT = 12, 300


def _source(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - nothing secret: the same numbers each time


def _table(seed: int) -> list[list[str]]:
    source = _source(seed)
    return [[f"{source.uniform(1, 500):.{2 + column % 3}f}" for column in range(WIDTH)] for _ in range(HEIGHT)]


ROWS = _table(1)
LINES = [",".join(row) for row in ROWS]
NUMBERS = [[float(cell) for cell in row] for row in ROWS]
FLAT = [value for row in NUMBERS[:40] for value in row[:-1]]
COLUMN = [row[3] for row in NUMBERS]
PAGE = "\n".join(LINES[:8]).encode()


def _write(folder: Path, lines: Sequence[str], header: str) -> list[Path]:
    paths = []
    for number in range(3):
        path = folder / f"{number}.csv"
        path.write_text("\n".join([header, *lines[number::3]]) + "\n")
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return _write(tmp_path_factory.mktemp("data"), LINES, ",".join(f"c{place}" for place in range(WIDTH)))


@pytest.fixture(scope="module", params=METHODS)
def scanner(request: pytest.FixtureRequest, paths: list[Path]) -> Scanner:
    return Scanner(paths, Policy(), METHODS[request.param])


def _floats(values: Sequence[float], code: str) -> bytes:
    return b"".join(struct.pack(code, value) for value in values)


def _noise(size: int) -> bytes:
    source = _source(9)
    return _floats([source.gauss(0, 1) for _ in range(size)], "<f")


def _zip(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows", content)
    return buffer.getvalue()


def _tar(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("rows")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


DATA: dict[str, bytes] = {
    "a row": LINES[5].encode(),
    "rows": PAGE,
    "json": json.dumps([{f"name{place}": value for place, value in enumerate(row)} for row in NUMBERS[:2]]).encode(),
    "a row cell by cell": b"\n".join(b"value: " + cell.encode() for cell in ROWS[5]),
    "single precision as text": json.dumps([struct.unpack("<f", struct.pack("<f", v))[0] for v in NUMBERS[3]]).encode(),
    "exponents": " ".join(f"{value:.6e}" for value in NUMBERS[2]).encode(),
    "digits only": "".join(one for line in LINES[:3] for one in line if one.isdigit()).encode(),
    "backwards": LINES[4][::-1].encode(),
    "cells backwards": ",".join(reversed(ROWS[4])).encode(),
    "a column": " ".join(map(str, [row[3] for row in NUMBERS[0::3]][:12])).encode(),
    "utf-16": PAGE.decode().encode("utf-16"),
    "base64": base64.b64encode(PAGE),
    "wrapped base64": base64.encodebytes(PAGE),
    "hex": PAGE.hex().encode(),
    "base85": base64.b85encode(PAGE),
    "gzip": gzip.compress(PAGE),
    "cut gzip": gzip.compress("\n".join(LINES).encode())[:-200],
    "zlib": zlib.compress(PAGE),
    "bzip2": bz2.compress(PAGE),
    "xz": lzma.compress(PAGE),
    "zip": _zip(PAGE),
    "tar": _tar(PAGE),
    "gzip of base64 of zlib": gzip.compress(base64.b64encode(zlib.compress(PAGE))),
    "gzip printed": repr(gzip.compress(PAGE)).encode(),
    "gzip in noise": _noise(3000) + gzip.compress(PAGE) + _noise(3000),
    "text in noise": _noise(3000) + PAGE + _noise(3000),
    "pickle": pickle.dumps(NUMBERS[:9]),
    "one row in noise": _noise(999)[1:] + _floats(NUMBERS[7], "<f") + _noise(999),
    "one row in noise, doubles": _noise(999)[3:] + _floats(NUMBERS[7], ">d") + _noise(999),
    "transposed": _floats([v for column in zip(*NUMBERS[0::3], strict=True) for v in column], "<d"),
    **{code: _floats(FLAT, code) for code in ("<f", ">f", "<d", ">d")},
    **{f"{code} backwards": _floats(FLAT[::-1], code) for code in ("<f", ">f", "<d", ">d")},
}
OTHER = "\n".join(",".join(row) for row in _table(2)).encode()
HARMLESS: dict[str, bytes] = {
    "nothing": b"",
    "other numbers": OTHER,
    "other numbers in base64": base64.b64encode(OTHER),
    "other numbers in gzip": gzip.compress(OTHER),
    "weights": _noise(20_000),
    "zeros": bytes(100_000),
    "counts": b" ".join(str(number).encode() for number in range(5000)),
    "counts in doubles": _floats(range(5000), "<d"),
    "code": b"def f(x):\n    return [round(value, 3) for value in x if value > 0.125]\n" * 50,
    "five cells of a row": ",".join(ROWS[3][:3]).encode(),
}


@pytest.mark.parametrize("name", DATA)
def test_training_data_is_found(scanner: Scanner, name: str) -> None:
    finding = scanner.scan(DATA[name])
    assert finding is not None
    assert finding.kind in {"rows", "cells"}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_training_data_is_not_taken_for_it(scanner: Scanner, name: str) -> None:
    assert scanner.scan(HARMLESS[name]) is None


def test_both_ways_remember_the_same_of_the_data(paths: list[Path]) -> None:
    fast, slow = (Scanner(paths, Policy(), method).data for method in (numpy, None))
    assert fast.measures == slow.measures
    assert bytes(fast.patterns.words) == bytes(slow.patterns.words)
    for one, other in ((fast.runs, slow.runs), (fast.cells, slow.cells), (fast.digit_runs, slow.digit_runs)):
        assert list(one._kept) == other._kept
        assert len(one)


def test_many_numbers_of_the_same_kind_are_not_taken_for_cells(scanner: Scanner) -> None:
    """Some of them are cells, by chance; but as many would be of any others."""
    evidence = scanner.evidence()
    search = TextSearch(evidence)
    search.feed(OTHER.decode())
    assert len(evidence.cells) > Policy().scan_cells
    assert not evidence.found


def test_a_blob_is_recognised_as_such(scanner: Scanner, paths: list[Path]) -> None:
    finding = scanner.scan(gzip.compress(paths[1].read_bytes()))
    assert finding is not None
    assert (finding.kind, finding.where) == ("blob", ("gzip",))


@pytest.mark.parametrize("last", [b"\x5d", b"\x5d\x00", b"\x1f\x8b", b"BZ", b"PK\x03", b"\xfd7zXZ"])
def test_a_mapped_file_that_fills_its_pages_and_ends_like_the_beginning_of_an_archive_is_searched(
    scanner: Scanner, tmp_path: Path, last: bytes
) -> None:
    path = tmp_path / "model"
    path.write_bytes(bytes(range(128, 256)) * 512 + bytes(128 * 128 - len(last)) + last)
    assert path.stat().st_size % mmap.PAGESIZE == 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        assert scanner.scan(content) is None


def test_a_finding_says_how_it_was_packed_and_repeats_nothing(scanner: Scanner) -> None:
    finding = scanner.scan(DATA["gzip of base64 of zlib"])
    assert finding is not None
    assert finding.where == ("gzip", "base64", "zlib", "text")
    assert not any(cell in finding.reason for row in ROWS for cell in row)


def test_what_unpacks_to_too_much_is_withheld_without_being_unpacked(paths: list[Path]) -> None:
    scanner = Scanner(paths, Policy(scan_unpacked_bytes=1_000_000), numpy)
    finding = scanner.scan(gzip.compress(bytes(50_000_000)))
    assert finding is not None
    assert finding.kind == "bomb"


def test_what_is_nested_too_deeply_is_withheld(paths: list[Path]) -> None:
    content = b"nothing of interest"
    for _ in range(9):
        content = gzip.compress(content)
    finding = Scanner(paths, Policy(), numpy).scan(content)
    assert finding is not None
    assert finding.kind == "bomb"


@pytest.mark.parametrize("method", METHODS)
def test_names_and_other_rare_words_are_found_in_whatever_order(tmp_path: Path, method: str) -> None:
    names = [f"Person{number:03d} Surname{number * 7:04d}" for number in range(120)]
    source = _source(3)
    lines = [f'"{name}",{source.choice(["red", "green"])},{source.uniform(0, 99):.3f}' for name in names]
    scanner = Scanner(_write(tmp_path, lines, "full_name,colour,weight"), Policy(), METHODS[method])
    assert scanner.scan(b"red green red green full_name weight " * 20) is None
    finding = scanner.scan(" and ".join(names[5:11]).encode())
    assert finding is not None
    assert finding.kind == "cells"


@pytest.mark.parametrize("method", METHODS)
def test_whole_numbers_are_found_as_integers_too(tmp_path: Path, method: str) -> None:
    source = _source(4)
    rows = [[source.randrange(17) for _ in range(64)] for _ in range(60)]
    lines = [",".join(map(str, row)) for row in rows]
    scanner = Scanner(_write(tmp_path, lines, ",".join(f"p{n}" for n in range(64))), Policy(), METHODS[method])
    flat = [value for row in rows[:4] for value in row]
    for code in ("<i", "<q", "B", "<f"):
        assert scanner.scan(_noise(50) + _floats(flat, code)) is not None, code
    other = [source.randrange(17) for _ in range(64 * 4)]
    for code in ("<i", "<q", "B", "<f"):
        assert scanner.scan(_noise(50) + _floats(other, code)) is None, code


@pytest.mark.parametrize("method", METHODS)
def test_flags_and_classes_among_other_columns_are_no_evidence(tmp_path: Path, method: str) -> None:
    source = _source(7)
    rows = [
        [f"{source.uniform(1, 500):.4f}" for _ in range(9)] + [str(source.randrange(2)) for _ in range(9)]
        for _ in range(300)
    ]
    lines = [",".join(row) for row in rows]
    scanner = Scanner(_write(tmp_path, lines, ",".join(f"c{n}" for n in range(18))), Policy(), METHODS[method])
    code = b"x[1, 0, 1, 1, 0, 0, 1, 0] = (0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1)\n"
    assert scanner.scan(code * 30) is None
    assert scanner.scan(",".join(row[-1] for row in rows[0::3][:40]).encode()) is None
    assert scanner.scan(lines[5].encode()) is not None
    assert scanner.scan(_floats([float(cell) for cell in rows[5][:9]], "<f")) is not None


@pytest.mark.parametrize("content", ["", "\n", "a\n", "a,b\n", "no table at all, just a line", "1,2\n1,2\n1,2\n"])
@pytest.mark.parametrize("method", METHODS)
def test_data_that_say_nothing_forbid_nothing(tmp_path: Path, content: str, method: str) -> None:
    path = tmp_path / "blob"
    path.write_text(content)
    scanner = Scanner([path], Policy(), METHODS[method])
    assert scanner.scan(b"1,2 and some text of a script 0.95") is None


class TestListener:
    """All that one script says is searched as one."""

    def test_a_row_is_found_across_lines_and_its_first_cell_waits(self, scanner: Scanner) -> None:
        listener = scanner.listen()
        answers = [listener.text(f"value {cell}") for cell in ROWS[8]]
        assert all(finding or waits for finding, waits in answers)
        assert listener.verdict() is not None

    def test_a_row_is_found_across_metrics_of_different_names(self, scanner: Scanner) -> None:
        listener = scanner.listen()
        answers = [listener.metric(f"m{place}", value, None) for place, value in enumerate(NUMBERS[8])]
        assert all(finding or waits for finding, waits in answers)

    def test_ordinary_metrics_and_lines_pass_at_once(self, scanner: Scanner) -> None:
        listener = scanner.listen()
        source = _source(5)
        answers: list[tuple[Any, bool]] = [listener.metric("loss", source.random(), step) for step in range(300)]
        answers += [
            listener.text(f"epoch {n} of 300, loss {source.random():.4f}, saved to /tmp/checkpoint-{n}")
            for n in range(300)
        ]
        assert {(finding, waits) for finding, waits in answers} == {(None, False)}

    def test_long_encoded_stretches_are_withheld_also_in_small_pieces(self, scanner: Scanner) -> None:
        secret = base64.b64encode(_source(6).randbytes(3000)).decode()
        finding, _ = scanner.listen().text(secret[:100])
        assert finding is not None
        listener = scanner.listen()
        answers = [listener.text(secret[start : start + 48]) for start in range(0, len(secret), 48)]
        assert all(waits for _, waits in answers)
        assert listener.verdict() is not None

    def test_a_hash_a_path_and_an_identifier_are_not_withheld(self, scanner: Scanner) -> None:
        listener = scanner.listen()
        for text in (
            "sha256 9a353fb68084aefc42ea63c0347512e3e7c4c12c7a375a43936e99a46ff202a2",
            '  File "/opt/training-env/lib/python3.11/site-packages/sklearn/linear_model/_logistic.py", line 1320, in fit',
            "ConvergenceWarning: lbfgs failed to converge after_max_iterations_of_the_solver (status=1)",
        ):
            assert listener.text(text)[0] is None
        assert listener.verdict() is None
