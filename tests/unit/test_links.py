"""A task's buttons lead to what it made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import edge_training_plugin
from edge_training.links import ImageLink, ModelLink, RecordLink, RunLink
from edge_training.operators.experiment import SubmitExperimentOperator
from edge_training.operators.image import BuildAndPushImageOperator
from edge_training.operators.model import RegisterModelOperator
from edge_training.operators.run import PollRunOperator
from tests.airflow_harness import comms

if TYPE_CHECKING:
    from tests.airflow_harness import FakeComms

__all__ = ["comms"]

PAGE = "https://ml.azure.com/runs/run-1?wsid=/subscriptions/s/resourcegroups/g/workspaces/w&tid=t"
IMAGE = {"registry": "acme.azurecr.io", "repository": "models/m", "digest": "sha256:ab"}
TI = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)


@pytest.mark.parametrize(
    ("link", "operator", "returned", "address"),
    [
        (RunLink(), {}, {"portal_url": PAGE}, PAGE),
        (
            ModelLink(),
            {"result": {"portal_url": PAGE}},
            {"model_id": "my model:3"},
            "https://ml.azure.com/model/my%20model:3/details?wsid=/subscriptions/s/resourcegroups/g/workspaces/w&tid=t",
        ),
        (ImageLink(), {}, IMAGE, "https://acme.azurecr.io/v2/models/m/manifests/sha256:ab"),
        (RunLink(), {}, None, ""),
        (RunLink(), {}, {}, ""),
        (ModelLink(), {"result": None}, {"model_id": "m:1"}, ""),
        (ModelLink(), {"result": {"portal_url": "not an address"}}, {"model_id": "m:1"}, ""),
        (ImageLink(), {}, {**IMAGE, "digest": ""}, ""),
    ],
)
def test_a_link_follows_from_what_the_task_returned(
    comms: FakeComms, link: RecordLink, operator: dict[str, Any], returned: object, address: str
) -> None:
    comms.xcom["t", "return_value"] = returned
    assert link.get_link(SimpleNamespace(**operator), ti_key=TI) == address  # type: ignore[arg-type]  # enough of an operator


def test_a_link_that_was_shown_before_the_end_stays_when_the_task_returns_nothing(comms: FakeComms) -> None:
    comms.xcom["t", "_link_RunLink"] = PAGE
    assert RunLink().get_link(SimpleNamespace(), ti_key=TI) == PAGE  # type: ignore[arg-type]  # likewise


@pytest.mark.parametrize(
    ("operator", "link"),
    [
        (SubmitExperimentOperator, RunLink),
        (PollRunOperator, RunLink),
        (RegisterModelOperator, ModelLink),
        (BuildAndPushImageOperator, ImageLink),
    ],
)
def test_every_task_that_makes_something_has_its_link_and_the_plugin_lists_it(operator: Any, link: type) -> None:
    assert [type(one) for one in operator.operator_extra_links] == [link]
    assert link in {type(one) for one in edge_training_plugin.EdgeTrainingPlugin.operator_extra_links}
