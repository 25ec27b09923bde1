"""Asks the model that a DAG run has put into service one question."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests

from demo.errors import DemoError
from demo.settings import PROJECT

if TYPE_CHECKING:
    from edge_training.records import Deployment

SAMPLE_REQUEST = PROJECT / "include/training_scripts/breast_cancer/sample_request.json"
ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What the model answered to one request.

    :param body: the answer, JSON.
    :param request_seconds: from the request to the answer.
    """

    body: Any
    request_seconds: float


def ask(deployment: Deployment) -> Answer:
    """Ask a deployed model for a prediction.

    :param deployment: where it is in service.
    :raises DemoError: when it does not answer with 200 and JSON.
    """
    begin = time.monotonic()
    headers = {"Content-Type": "application/json"}
    try:
        with requests.Session() as session:
            # A proxy of the environment would not reach this machine's own address.
            session.trust_env = False
            response = session.post(
                deployment.where, data=SAMPLE_REQUEST.read_bytes(), headers=headers, timeout=ANSWER_SECONDS
            )
            response.raise_for_status()
            return Answer(response.json(), time.monotonic() - begin)
    except (requests.RequestException, ValueError) as error:
        raise DemoError(
            f"The model {deployment.reference} at {deployment.where} did not answer as it should: {error}"
        ) from error
