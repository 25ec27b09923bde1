"""A model that is not good enough is not registered."""

import math

import pytest

from edge_training.operators.model import metric_shortfalls


def test_metrics_that_reach_the_minimum_pass() -> None:
    assert metric_shortfalls({"roc_auc": 0.95, "accuracy": 0.5}, {"roc_auc": 0.95}) == []


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"roc_auc": 0.94}, "roc_auc is 0.94, at least 0.95 is needed"),
        ({}, "roc_auc was not reported, at least 0.95 is needed"),
        ({"roc_auc": math.nan}, "roc_auc is nan, at least 0.95 is needed"),
    ],
)
def test_a_metric_that_falls_short_is_named(metrics: dict[str, float], said: str) -> None:
    assert metric_shortfalls(metrics, {"roc_auc": 0.95}) == [said]
