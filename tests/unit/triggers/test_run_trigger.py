"""The trigger waits out what passes, and says what does not."""

import asyncio
import time
from typing import Any

from edge_training.exceptions import ServiceError
from edge_training.records import RunStatus
from edge_training.triggers.run import RunSource, RunTrigger


class Azure:
    """Answers with what the test has planned: states and errors, in order; the last one stays."""

    def __init__(self, *answers: str | ServiceError) -> None:
        self.answers = list(answers)
        self.canceled: list[str] = []

    def get_run(self, run_id: str) -> RunStatus:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ServiceError):
            raise answer
        return RunStatus(run_id, answer)

    def read_log(self, run_id: str, offset: int) -> bytes:
        return b""

    def cancel(self, run_id: str) -> None:
        self.canceled.append(run_id)


class Trigger(RunTrigger):
    def __init__(self, azure: Azure, seconds_left: float = 60.0) -> None:
        super().__init__("run-1", "azure_ml", 0.001, time.time() + seconds_left)
        self.azure = azure

    def _source(self) -> RunSource:
        return self.azure


def events(trigger: RunTrigger) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(collect(), 30))


OUTAGE = ServiceError("503", service="Azure ML", status=503)


def test_an_outage_is_waited_out_and_the_end_of_the_run_is_seen() -> None:
    (event,) = events(Trigger(Azure("Running", OUTAGE, OUTAGE, "Running", OUTAGE, "Completed")))
    assert event["status"]["state"] == "Completed"


def test_an_error_that_does_not_pass_ends_the_waiting_at_once() -> None:
    refused = ServiceError("403", service="Azure ML", status=403)
    (event,) = events(Trigger(Azure("Running", refused)))
    assert event == {"run_id": "run-1", "error": "403", "retryable": False}


def test_an_outage_that_lasts_beyond_the_limit_is_an_error_that_may_be_tried_again() -> None:
    (event,) = events(Trigger(Azure(OUTAGE), seconds_left=-1.0))
    assert event["retryable"] is True


def test_a_run_beyond_its_limit_is_cancelled_once() -> None:
    azure = Azure("Running")
    (event,) = events(Trigger(azure, seconds_left=-1.0))
    assert event["timed_out"] is True
    assert azure.canceled == ["run-1"]
