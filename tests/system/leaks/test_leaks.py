"""No script gets training data out, however it tries; and each of them passes when it does not try."""

from __future__ import annotations

import contextlib
import re
import struct
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.leaks.conftest import MARK
from tests.system.leaks.scripts import LEAKS

if TYPE_CHECKING:
    from tests.system.leaks.conftest import Attempt

Attempts = dict[str, "Attempt"]
NUMBER = re.compile(rb"\d+\.\d+|\d+")


@pytest.fixture(scope="session")
def rows(data: dict[str, bytes]) -> list[list[bytes]]:
    """The data's rows, cell by cell."""
    return [line.split(b",") for content in data.values() for line in content.splitlines()[1:]]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_stopped_or_withheld_and_stands_on_the_record(name: str, attempts: Attempts) -> None:
    attempt = attempts[name]
    record, log = attempt.record, attempt.outcome.log
    assert record["error_code"] == LEAKS[name].error, log
    assert LEAKS[name].says in log
    assert "got out" not in log
    withheld = {item["kind"] for item in record["items"] if item["verdict"] == "withheld"}
    assert withheld >= set(LEAKS[name].kinds)
    assert set(record["sandbox"]["self_test"].values()) == {"closed"}
    assert attempt.requests == record["data"]["blobs"]


@pytest.mark.parametrize("name", LEAKS)
def test_nothing_of_a_row_is_in_anything_that_left(name: str, attempts: Attempts, rows: list[list[bytes]]) -> None:
    left = attempts[name].left
    telling = {cell for row in rows for cell in row if len(cell.replace(b".", b"").strip(b"0")) >= 5}
    assert [found for found in NUMBER.findall(left) if found in telling] == []
    assert [row for row in rows for a, b in pairwise(row) if float(a) and float(b) and _packed(a, b, left)] == []


def _packed(a: bytes, b: bytes, left: bytes) -> bool:
    return any(struct.pack(code, float(a), float(b)) in left for code in ("<2f", ">2f", "<2d", ">2d"))


@pytest.mark.parametrize("name", LEAKS)
def test_a_run_that_failed_leaves_nothing_but_its_record(name: str, attempts: Attempts) -> None:
    attempt = attempts[name]
    assert attempt.outcome.outputs == ["edge_run.json"] + ([] if LEAKS[name].error else ["model.onnx"])
    assert attempt.remains == []


@pytest.mark.parametrize("name", LEAKS)
def test_the_same_script_without_the_leak_passes(name: str, honest: Attempts) -> None:
    attempt = honest[name]
    assert attempt.record["result"] == "completed", attempt.outcome.log
    assert {item["verdict"] for item in attempt.record["items"]} == {"passed"}
    assert attempt.outcome.outputs == ["edge_run.json", "model.onnx"]
    assert attempt.remains == []


def test_no_process_of_any_script_lives_on(attempts: Attempts) -> None:
    assert attempts
    assert [command for command in _commands() if MARK in command] == []


def _commands() -> list[str]:
    """Return the command line of every process of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().decode("utf-8", "replace"))
    return found
