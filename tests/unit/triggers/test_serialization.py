"""Every trigger survives the way through the database into the triggerer."""

import importlib

import pytest
from airflow.triggers.base import BaseTrigger

from edge_training.triggers.run import RunTrigger

TRIGGERS: list[BaseTrigger] = [RunTrigger("run-1", "azure_ml", 30.0, 1_800_000_000.0, "experiment")]


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: type(trigger).__name__)
def test_a_trigger_is_made_again_from_what_it_serializes_to(trigger: BaseTrigger) -> None:
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**arguments)
    assert type(again) is type(trigger)
    assert again.serialize() == (path, arguments)
