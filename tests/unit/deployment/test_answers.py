"""When two answers count as the same."""

from __future__ import annotations

from typing import Any

import pytest

from edge_training.deployment.host.ask import count_values, differences
from edge_training.deployment.probes import parse_probe
from edge_training.exceptions import ImageError


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"labels": [1], "probabilities": [[0.25, 0.75]]}, {"labels": [1], "probabilities": [[0.25001, 0.74999]]}),
        ({"a": None, "b": "x", "c": True}, {"a": None, "b": "x", "c": True}),
        ([1000.0], [1000.5]),
        (1, 1.0),
    ],
)
def test_answers_within_the_tolerance_are_the_same(expected: Any, found: Any) -> None:
    assert differences(expected, found, 1e-4, 1e-3) == []


@pytest.mark.parametrize(
    ("expected", "found", "said"),
    [
        ({"p": [0.25, 0.75]}, {"p": [0.25, 0.76]}, "answer.p[1] is 0.76, recorded was 0.75"),
        ({"p": [1]}, {"p": [1, 2]}, "answer.p is [1, 2], recorded was [1]"),
        ({"p": 1}, {"q": 1}, 'answer is {"q": 1}, recorded was {"p": 1}'),
        ({"p": 1}, {"p": True}, "answer.p is true, recorded was 1"),
        ({"p": True}, {"p": 1}, "answer.p is 1, recorded was true"),
        ({"p": 1.0}, {"p": float("nan")}, "answer.p is nan, recorded was 1"),
        ("a", "b", 'answer is "b", recorded was "a"'),
    ],
)
def test_a_difference_is_said_with_its_place_and_both_values(expected: Any, found: Any, said: str) -> None:
    assert differences(expected, found, 1e-4, 1e-3) == [said]


def test_all_values_of_an_answer_are_counted() -> None:
    assert count_values({"labels": [0, 1], "probabilities": [[0.1, 0.9], [0.8, 0.2]]}) == 6


GOOD = b'{"version": 1, "cases": [{"request": {"data": [[1]]}, "answer": {"labels": [1]}}], "tolerance": {"absolute": 0.1, "relative": 0}}'


def test_a_probe_is_read() -> None:
    assert parse_probe(GOOD, "run r")["cases"][0]["answer"] == {"labels": [1]}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"version": 1', b'"version": 2', "not a probe of version 1"),
        (GOOD, b"[]", "not a probe of version 1"),
        (GOOD, b"\xff", "not a probe of version 1"),
        (b'"answer"', b'"output"', "must have 1 to 100 cases"),
        (b'[{"request": {"data": [[1]]}, "answer": {"labels": [1]}}]', b"[]", "must have 1 to 100 cases"),
        (b"0.1", b"NaN", "must have a tolerance"),
        (b"0.1", b"-1", "must have a tolerance"),
        (b'"relative": 0', b'"relative": true', "must have a tolerance"),
    ],
)
def test_a_damaged_probe_is_refused_and_its_run_named(old: bytes, new: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        parse_probe(GOOD.replace(old, new), "run r")
    assert "of run r" in str(caught.value)
