"""The trigger waits out what passes, and says what does not."""

import asyncio
import time
from typing import Any

import pytest

from edge_training.exceptions import ConfigurationError
from edge_training.triggers.look import RunSource
from edge_training.triggers.run import RunTrigger
from tests.unit.triggers.azure import OUTAGE, REFUSED, Azure


class Trigger(RunTrigger):
    def __init__(self, azure: Azure, seconds_left: float = 60.0) -> None:
        super().__init__("run", "azure_ml", 0.001, time.time() + seconds_left, "experiment")
        self.azure = azure

    def _source(self) -> RunSource:
        return self.azure


def events(trigger: RunTrigger) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(collect(), 30))


def test_an_outage_is_waited_out_and_the_end_of_the_run_is_seen() -> None:
    (event,) = events(Trigger(Azure(run=["Running", OUTAGE, OUTAGE, "Running", OUTAGE, "Completed"])))
    assert event["status"]["state"] == "Completed"
    assert [state for state, _ in event["states"]] == ["Running", "Completed"]


def test_an_error_that_does_not_pass_ends_the_waiting_at_once() -> None:
    (event,) = events(Trigger(Azure(run=["Running", REFUSED])))
    assert event == {"run_id": "run", "error": "403", "retryable": False}


def test_an_outage_that_lasts_beyond_the_limit_is_an_error_that_may_be_tried_again() -> None:
    (event,) = events(Trigger(Azure(run=[OUTAGE]), seconds_left=-1.0))
    assert event["retryable"] is True


def test_a_run_beyond_its_limit_is_cancelled_once() -> None:
    azure = Azure(run="Running")
    (event,) = events(Trigger(azure, seconds_left=-1.0))
    assert event["timed_out"] is True
    assert azure.canceled == ["run"]


def test_a_run_that_does_not_exist_is_an_error_that_does_not_pass() -> None:
    (event,) = events(Trigger(Azure(other="Running")))
    assert event == {"run_id": "run", "error": "no run run", "retryable": False}


def test_a_connection_that_cannot_be_used_fails_the_trigger_and_keeps_nobody_waiting() -> None:
    class Unusable(Trigger):
        def _source(self) -> RunSource:
            raise ConfigurationError("Connection 'azure_ml' lacks 'login'.")

    with pytest.raises(ConfigurationError, match="lacks 'login'"):
        events(Unusable(Azure()))
