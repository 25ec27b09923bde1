"""What the rounds came to is told in full: also that a fault was not met."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.system.chaos import report
from tests.system.chaos.evidence import Told
from tests.system.chaos.plan import KILL, Fault
from tests.system.chaos.rounds import Outcome, Struck

if TYPE_CHECKING:
    from pathlib import Path

MET = Struck(Fault(KILL, "task", "poll_run"), when=1.0, during=("poll_run",), hit=True)
UNMET = Struck(Fault("429", "log in", "poll_run"), when=1.0)
OUTCOMES = [
    Outcome(1, [MET], Told("success"), lane="lane_1", seconds=10.0),
    Outcome(2, [UNMET], Told("success"), lane="lane_2", seconds=12.0),
    Outcome(3, [MET], Told("success"), lane="lane_1", seconds=20.0, violations=["2 model versions"]),
]


def test_a_round_in_which_nothing_was_met_is_visible() -> None:
    assert "(not met)" in report.line(OUTCOMES[1])
    assert "rounds 2: no fault was met" in report.summary(OUTCOMES, 7, 42.0)
    (row,) = [row for row in report.rows(OUTCOMES) if row.fault == "429: log in"]
    assert (row.rounds, row.hits, row.recoveries) == (1, 0, 1)


def test_a_violation_is_in_line_table_and_summary() -> None:
    assert "VIOLATION" in report.line(OUTCOMES[2])
    assert "!! 2 model versions" in report.line(OUTCOMES[2])
    (row,) = [row for row in report.rows(OUTCOMES) if row.fault == "kill -9 task"]
    assert (row.rounds, row.hits, row.recoveries, row.violations) == (2, 2, 1, 1)
    assert "2 recovered, 0 failed, 1 with violations" in report.summary(OUTCOMES, 7, 42.0)
    assert "seed 7" in report.summary(OUTCOMES, 7, 42.0)


def test_everything_is_in_the_json_too(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    report.write(file, OUTCOMES, 7, 42.0, ["no fault disturbs registry: GET /v2/"])
    content = json.loads(file.read_text())
    assert (content["seed"], content["rounds"], content["violations"], content["unmet"]) == (7, 3, 1, 1)
    assert content["notes"] == ["no fault disturbs registry: GET /v2/"]
    assert [one["lane"] for one in content["outcomes"]] == ["lane_1", "lane_2", "lane_1"]
