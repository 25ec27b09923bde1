"""Of a run that did not complete, what never arrived is no difference; what nobody let out is one as ever."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.residency.audit import audit
from edge_training.residency.gate_record import no_record
from tests.unit.residency.runs import LOG, RUN, expected, file, held, metric, without_artifact

if TYPE_CHECKING:
    from edge_training.residency.evidence import Evidence

KEPT = LOG + b"failed | Canceled: The run was ended from outside by SIGTERM.\n"


def ended(log: bytes, **changed: Any) -> Evidence:
    """Return a run that was cancelled: no model, no record, and as much of its log as arrived."""
    return held(**{"state": "Canceled", "artifacts": (file("user_logs/std_log.txt", log),), "metrics": (), **changed})


def where(evidence: Evidence, **changed: Any) -> list[tuple[str, str]]:
    return [(one.where, one.what) for one in audit(expected(kept_log=KEPT, **changed), evidence).differences]


def unrecorded() -> dict[str, Any]:
    return {"record": no_record(RUN, "sha256:" + "1" * 64), "record_content": b""}


@pytest.mark.parametrize("log", [b"", LOG[:30], LOG, KEPT[:-5], KEPT, LOG + b"Killed\n", KEPT + b"Terminated\n"])
@pytest.mark.parametrize("changed", [{}, unrecorded()], ids=["with a record", "without one"])
def test_a_part_of_the_log_and_the_last_word_of_a_shell_are_accounted_for(log: bytes, changed: dict[str, Any]) -> None:
    assert where(ended(log), **changed) == []


@pytest.mark.parametrize("log", [b"x" + LOG, LOG + b"17.99,10.38\n", LOG + b"17.99 Killed\n", KEPT + b"more\n"])
@pytest.mark.parametrize("changed", [{}, unrecorded()], ids=["with a record", "without one"])
def test_a_log_that_the_runner_did_not_print_is_a_difference(log: bytes, changed: dict[str, Any]) -> None:
    assert [place for place, _ in where(ended(log), **changed)] == ["log"]


def test_the_same_things_missing_from_a_run_that_completed_are_differences() -> None:
    assert {"artifact", "metric", "log"} <= {place for place, _ in where(replace(ended(LOG), state="Completed"))}


@pytest.mark.parametrize("state", ["Failed", "Canceled"])
def test_what_somebody_adds_is_a_difference_with_and_without_a_record(state: str) -> None:
    foreign = (file("user_logs/std_log.txt", KEPT), file("outputs/rows.csv", b"1,2\n"))
    added = ended(
        KEPT, artifacts=foreign, state=state, tags={**held().tags, "note": "17.99"}, texts={"description": "17.99"}
    )
    assert {("artifact", "outputs/rows.csv"), ("tag", "note"), ("text", "description")} <= set(where(added))
    assert {("artifact", "outputs/rows.csv"), ("tag", "note")} <= set(where(added, **unrecorded()))
    assert audit(expected(**unrecorded()), added).result == "differences"


def test_without_a_record_metrics_are_counted_and_the_verdict_says_it() -> None:
    found = audit(expected(kept_log=KEPT, **unrecorded()), ended(LOG, metrics=(metric("auc", 0.75),), state="Failed"))
    assert (found.is_clean, found.result) == (True, "no record")
    assert found.compared["metric_values"] == 1
    assert found.bytes_out["metrics"] > 0
    assert found.bytes_out["log"] == len(LOG)


def test_a_record_that_only_azure_ml_has_is_a_difference() -> None:
    assert where(replace(held(), state="Failed", artifacts=held().artifacts[:1]), **unrecorded()) == [
        ("artifact", "outputs/edge_run.json")
    ]
    assert without_artifact("outputs/edge_run.json").artifacts


def test_an_error_that_the_runner_did_not_report_is_a_difference_unless_the_platform_ended_the_run() -> None:
    error = ("Script", "17.99")
    assert ("error", "of the run") in where(ended(LOG, error=error, state="Failed"))
    assert where(ended(LOG, error=error)) == []
