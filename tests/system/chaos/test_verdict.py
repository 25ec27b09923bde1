"""The verdict on a round: each thing that must not be is found, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.system.chaos.evidence import Evidence, Told, judge

TOLD = Told("success", run_id="dag-1", model="breast-cancer:3", digest="sha256:aa")
GOOD = Evidence(
    runs={"dag-1": "Completed"}, models={"breast-cancer:3": "dag-1"}, images=frozenset({"aa"}), tags={"v3": "aa"}
)


def test_a_run_that_left_one_of_each_is_good() -> None:
    assert judge(TOLD, GOOD) == []


def test_a_run_that_failed_before_another_completed_is_good() -> None:
    assert judge(TOLD, replace(GOOD, runs={"dag-0": "Failed", "dag-1": "Completed"})) == []


@pytest.mark.parametrize(
    ("new", "word"),
    [
        (replace(GOOD, runs={"dag-1": "Completed", "dag-2": "Completed"}), "2 completed runs"),
        (replace(GOOD, runs={"dag-1": "Completed", "dag-2": "Running"}), "run dag-2 is still Running"),
        (replace(GOOD, runs={"dag-1": "Failed"}), "names run dag-1"),
        (replace(GOOD, models={}), "names model breast-cancer:3"),
        (replace(GOOD, models={"breast-cancer:3": "other"}), "names model breast-cancer:3"),
        (replace(GOOD, models={**GOOD.models, "breast-cancer:4": "dag-1"}), "2 model versions"),
        (replace(GOOD, images=frozenset()), "names image aa"),
        (replace(GOOD, images=frozenset({"aa", "bb"})), "2 images"),
        (replace(GOOD, tags={"v3": "bb"}), "tag v3"),
        (replace(GOOD, left=(".edge-training/grants/x.json",)), "x.json is left"),
    ],
)
def test_what_must_not_be_is_named(new: Evidence, word: str) -> None:
    assert [sentence for sentence in judge(TOLD, new) if word in sentence]


@pytest.mark.parametrize("state", ["failed", "running"])
def test_a_run_that_does_not_succeed_is_named(state: str) -> None:
    assert any(state in sentence for sentence in judge(Told(state), Evidence()))


def test_what_was_there_before_is_not_held_against_a_round_but_what_still_runs_is() -> None:
    before = replace(GOOD, runs={**GOOD.runs, "old": "Running"})
    new = before.since(before)
    assert new.runs == {"old": "Running"}
    assert (new.models, new.images, new.tags) == ({}, frozenset(), {})


def test_a_tag_that_was_moved_is_new() -> None:
    moved = replace(GOOD, tags={"v3": "bb"})
    assert moved.since(GOOD).tags == {"v3": "bb"}
