"""One finished run on the local site, and the tasks that look after it; a test that spoils something spoils a copy."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.operators.egress import AuditEgressOperator
from edge_training.retries import TypedRetryPolicy
from tests.airflow_harness import airflow_connection, comms, run_task
from tests.integration.training.conftest import Pipeline, connections, pipeline, project

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_training.records import JsonObject
    from tests.airflow_harness import AirflowConnection, TaskOutcome

__all__ = ["airflow_connection", "comms", "connections", "pipeline", "project", "run_task"]

# Enough of a project: a model, metrics with and without steps, and a line of log.
GOOD = """
import edge_context
print("hello")
for step, loss in enumerate([0.5, 0.25]):
    edge_context.log_metric("loss", loss, step=step)
edge_context.log_metric("accuracy", 0.75)
edge_context.save_model(MODEL, "model.onnx")
"""


@pytest.fixture
def residency(connections: dict[str, Any], airflow_connection: AirflowConnection) -> dict[str, Any]:
    """Give Airflow the key that signs receipts."""
    airflow_connection(
        "residency_key", conn_type="ed25519", extra={"key_file": connections["LOCAL_SITE_RESIDENCY_KEY_FILE"]}
    )
    return connections


class Audited:
    """A run that has completed, and its audit.

    :param pipeline: the DAG run.
    :param result: what ``poll_run`` returned.
    :param container: where its receipts are.
    """

    def __init__(self, pipeline: Pipeline, result: JsonObject, container: str) -> None:
        self.pipeline, self.result, self.container = pipeline, result, container
        self.fields: dict[str, Any] = {}

    @property
    def run_id(self) -> str:
        """Return the run's id."""
        return str(self.result["run_id"])

    def operator(self, **options: Any) -> AuditEgressOperator:
        """Return the task."""
        fields = {"site": "test", "data": None, "code": None, **self.pipeline.fields}
        return AuditEgressOperator(
            **{
                "task_id": "audit_egress",
                "site": fields["site"],
                "data": fields["data"],
                "code": fields["code"],
                "result": self.result,
                "container": self.container,
                "settle": timedelta(0),
                "retry_policy": TypedRetryPolicy(),
                **self.fields,
                **options,
            }
        )

    def audit(self, **options: Any) -> TaskOutcome:
        """Run one try of the task."""
        return self.pipeline.run(self.operator(**options))


@pytest.fixture
def completed(
    residency: dict[str, Any], pipeline: Pipeline, project: Callable[[str], Any], model_bytes: bytes
) -> Audited:
    """Give a run that has just completed, and a container of its own for receipts."""
    script = f"MODEL = {model_bytes!r}\n{GOOD}"
    run = pipeline.value(pipeline.submission("sample", project(script), experiment="audited"))
    outcome = pipeline.poll(run)
    assert outcome.error is None, outcome.error
    return Audited(pipeline, outcome.value, f"receipts-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def model_bytes() -> bytes:
    """Return a small ONNX model: y = Identity(x), as its protobuf is written."""

    def part(number: int, content: bytes | int) -> bytes:
        if isinstance(content, int):
            return bytes([number << 3, content])
        return bytes([number << 3 | 2, len(content)]) + content

    tensor = part(1, part(1, 1) + part(2, part(1, part(1, 1))))
    node = part(1, b"x") + part(2, b"y") + part(4, b"Identity")
    values = [part(number, part(1, name) + part(2, tensor)) for number, name in ((11, b"x"), (12, b"y"))]
    graph = part(1, node) + part(2, b"g") + b"".join(values)
    return part(1, 8) + part(7, graph) + part(8, part(2, 17))
