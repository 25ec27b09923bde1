"""The short form of `make chaos`: twelve rounds in which processes are killed and calls fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from demo.settings import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

# It waits for fifteen DAG runs, three at a time, some of which lose a process and have to notice.
pytestmark = [pytest.mark.timeout(900), pytest.mark.chaos]

ROUNDS = 12
SEED = 1


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(PROJECT / name) for name in ("", "include", "plugins"))
    return subprocess.run(
        [sys.executable, "-m", "tests.system.chaos", *arguments],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    file: Path = tmp_path_factory.mktemp("chaos") / "chaos.json"
    done = chaos("--rounds", str(ROUNDS), "--seed", str(SEED), "--json", str(file))
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return done, content


def test_nothing_is_lost_and_nothing_is_done_twice(
    played: tuple[subprocess.CompletedProcess[str], dict[str, Any]],
) -> None:
    done, content = played
    assert done.returncode == 0, done.stdout + done.stderr
    assert (content["rounds"], content["recovered"], content["violations"]) == (ROUNDS, ROUNDS, 0)


def test_the_faults_were_really_met(played: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    done, content = played
    met = [fault["hit"] for outcome in content["outcomes"] for fault in outcome["faults"]]
    # A call may fall away because another fault of the same round changed the way; most are made.
    assert met.count(True) >= ROUNDS, done.stdout
    assert content["unmet"] < ROUNDS / 4, done.stdout


def test_no_call_of_the_pipeline_is_left_undisturbed_by_the_long_form(
    played: tuple[subprocess.CompletedProcess[str], dict[str, Any]],
) -> None:
    assert played[1]["notes"] == []


def test_seed_machine_and_table_are_told(played: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    done, content = played
    assert f"seed {SEED}, {ROUNDS} rounds" in done.stdout
    assert content["machine"] in done.stdout
    assert re.search(r"^fault +step +rounds +met +recovered +failed +violations", done.stdout, re.MULTILINE)
    for row in content["table"]:
        assert re.search(rf"^{re.escape(row['fault'])} +{re.escape(row['step'])} ", done.stdout, re.MULTILINE), row


def test_a_fault_that_does_not_exist_is_refused_before_anything_is_started() -> None:
    done = chaos("--rounds", "1", "--only", "no-such-thing")
    assert done.returncode == 2
    assert "no-such-thing" in done.stderr
