"""No script gets training data out, however it tries; and each of them passes when it does not try."""

from __future__ import annotations

import contextlib
import re
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_run.sandbox import KINDS
from tests.system.leaks.conftest import MARK
from tests.system.leaks.scripts import LEAKS

if TYPE_CHECKING:
    from tests.system.leaks.conftest import Attempt, Vm
    from tests.system.leaks.scripts import Leak

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


# The ways out that do not need the Azure ML SDK, which takes seconds to import.
WAYS_OUT = [name for name, leak in LEAKS.items() if leak.says == "refused" and name != "Run.get_context"]
BAD_BEHAVIOUR = ["a fork bomb", "filling the disk", "taking all memory", "taking too long"]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_way_out_is_closed_in_the_other_kinds_of_sandbox_too(kind: str, vm: Vm, tmp_path: Path) -> None:
    attempt = vm.run(tmp_path / "run", [_in_sandbox(name, kind) for name in WAYS_OUT], leak=True)
    log = attempt.outcome.log
    assert attempt.record["result"] == "completed", log
    assert attempt.record["sandbox"]["kind"] == kind
    assert set(attempt.record["sandbox"]["self_test"].values()) == {"closed"}
    assert "got out" not in log
    assert log.count("refused") == sum(LEAKS[name].code.count("attempt(") for name in WAYS_OUT)
    assert attempt.requests == attempt.record["data"]["blobs"]
    assert attempt.remains == []


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("name", BAD_BEHAVIOUR)
def test_limits_hold_in_the_other_kinds_of_sandbox_too(name: str, kind: str, vm: Vm, tmp_path: Path) -> None:
    attempt = vm.run(tmp_path / "run", [_in_sandbox(name, kind)], leak=True)
    assert attempt.record["sandbox"]["kind"] == kind
    assert attempt.record["error_code"] == LEAKS[name].error, attempt.outcome.log
    assert LEAKS[name].says in attempt.outcome.log
    assert attempt.remains == []


def _in_sandbox(name: str, kind: str) -> Leak:
    return replace(LEAKS[name], policy={**LEAKS[name].policy, "sandbox": kind})


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
