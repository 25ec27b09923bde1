"""Runs one task as an Airflow worker does, without database, API server and scheduler.

Airflow's own task runner does everything (templates, XCom, deferral, retries, the outcome of an exception); only its socket to the
supervisor is replaced by a dictionary. A test takes the fixtures by importing them in its folder's ``conftest.py``::

    from tests.airflow_harness import airflow_connection, comms, run_task
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

# Airflow reads these when it is imported. The address of the database is one that nobody can open, so that touching it fails.
if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-unit-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "sqlite:////dev/null/none")
os.environ.setdefault("AIRFLOW__CORE__PLUGINS_FOLDER", str(Path(__file__).parents[1] / "plugins"))

AirflowConnection = Callable[..., None]
RunTask = Callable[..., "TaskOutcome"]


@dataclass
class FakeComms:
    """What the supervisor keeps for a task: state that outlives its tries, and XCom.

    :param state: the task state store.
    :param xcom: by task id and key.
    :param sent: every message, in order.
    :param task_states: what the database says of tasks, by task id.
    :param dag_runs_over: ids of the DAG runs that are over; every other one is running.
    """

    state: dict[str, Any] = field(default_factory=dict)
    xcom: dict[tuple[str, str], Any] = field(default_factory=dict)
    sent: list[Any] = field(default_factory=list)
    task_states: dict[str, str | None] = field(default_factory=dict)
    dag_runs_over: set[str] = field(default_factory=set)

    def send(self, msg: Any) -> Any:
        """Answer a message of the task."""
        self.sent.append(msg)
        answer = getattr(self, f"_{type(msg).__name__}", None)
        return answer(msg) if answer else None

    async def asend(self, msg: Any) -> Any:
        """Answer a message that is sent from an event loop."""
        return self.send(msg)

    def _GetTaskStateStore(self, message: Any) -> Any:  # noqa: N802 - the message's name
        from airflow.sdk.exceptions import ErrorType
        from airflow.sdk.execution_time import comms

        if message.key in self.state:
            return comms.TaskStateStoreResult(value=self.state[message.key])
        return comms.ErrorResponse(error=ErrorType.TASK_STORE_NOT_FOUND)

    def _SetTaskStateStore(self, message: Any) -> None:  # noqa: N802
        self.state[message.key] = message.value

    def _DeleteTaskStateStore(self, message: Any) -> None:  # noqa: N802
        self.state.pop(message.key, None)

    def _ClearTaskStateStore(self, message: Any) -> None:  # noqa: N802
        self.state.clear()

    def _SetXCom(self, message: Any) -> None:  # noqa: N802
        self.xcom[message.task_id, message.key] = message.value

    def _DeleteXCom(self, message: Any) -> None:  # noqa: N802
        self.xcom.pop((message.task_id, message.key), None)

    def _GetXCom(self, message: Any) -> Any:  # noqa: N802
        from airflow.sdk.execution_time import comms

        return comms.XComResult(key=message.key, value=self.xcom.get((message.task_id, message.key)))

    def _GetTaskStates(self, message: Any) -> Any:  # noqa: N802
        from airflow.sdk.execution_time import comms

        return comms.TaskStatesResult(task_states={run_id: dict(self.task_states) for run_id in message.run_ids})

    def _GetDRCount(self, message: Any) -> Any:  # noqa: N802
        from airflow.sdk.execution_time import comms

        return comms.DRCount(count=len(set(message.run_ids) - self.dag_runs_over))

    def _GetConnection(self, message: Any) -> Any:  # noqa: N802
        from airflow.sdk.exceptions import ErrorType
        from airflow.sdk.execution_time import comms

        return comms.ErrorResponse(error=ErrorType.CONNECTION_NOT_FOUND, detail={"conn_id": message.conn_id})

    def _ValidateInletsAndOutlets(self, message: Any) -> Any:  # noqa: N802
        from airflow.sdk.execution_time import comms

        return comms.InactiveAssetsResult(inactive_assets=[])


@dataclass(frozen=True)
class TaskOutcome:
    """How a try of a task ended.

    :param state: ``success``, ``failed``, ``up_for_retry`` or ``deferred``.
    :param error: what it raised, or ``None``.
    :param value: what it returned.
    :param message: what the worker tells the scheduler, such as the trigger of a deferral.
    :param context: the task's context.
    """

    state: str
    error: BaseException | None
    value: Any
    message: Any
    context: Any


@pytest.fixture
def comms(monkeypatch: pytest.MonkeyPatch) -> FakeComms:
    """Give the task a supervisor."""
    from airflow.sdk.execution_time import task_runner

    fake = FakeComms()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", fake, raising=False)
    return fake


@pytest.fixture
def airflow_connection(monkeypatch: pytest.MonkeyPatch) -> AirflowConnection:
    """Give Airflow a connection: ``airflow_connection("training_vm", conn_type="ssh", host=..., extra={...})``."""

    def add(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return add


@pytest.fixture
def run_task(comms: FakeComms) -> RunTask:
    """Run one try of a task: ``run_task(operator, try_number=1, max_tries=2, resume=("execute_complete", {...}))``."""

    def run(
        operator: BaseOperator,
        *,
        run_id: str = "manual__1",
        try_number: int = 1,
        max_tries: int = 2,
        conf: dict[str, Any] | None = None,
        resume: tuple[str, dict[str, Any]] | None = None,
    ) -> TaskOutcome:
        import structlog
        from airflow.sdk.execution_time import task_runner

        instance = _task_instance(operator, run_id, try_number, max_tries, conf, resume)
        context = instance.get_template_context()
        state, message, error = task_runner.run(instance, context, structlog.get_logger("task"))
        value = comms.xcom.get((operator.task_id, "return_value"))
        return TaskOutcome(str(state.value), error, value, message, context)

    return run


def _task_instance(
    operator: BaseOperator,
    run_id: str,
    try_number: int,
    max_tries: int,
    conf: dict[str, Any] | None,
    resume: tuple[str, dict[str, Any]] | None,
) -> Any:
    import uuid6
    from airflow.sdk import DAG
    from airflow.sdk.api.datamodels._generated import DagRun, DagRunState, DagRunType, TIRunContext
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    if not operator.has_dag():
        DAG("unit", schedule=None).add_task(operator)
    now = datetime.now(UTC)
    dag_run = DagRun(
        dag_id=operator.dag_id,
        run_id=run_id,
        logical_date=now,
        data_interval_start=now,
        data_interval_end=now,
        run_after=now,
        start_date=now,
        end_date=None,
        run_type=DagRunType.MANUAL,
        state=DagRunState.RUNNING,
        conf=conf or {},
        consumed_asset_events=[],
        partition_key=None,
    )
    instance = RuntimeTaskInstance.model_construct(
        id=uuid6.uuid7(),
        task_id=operator.task_id,
        dag_id=operator.dag_id,
        run_id=run_id,
        try_number=try_number,
        map_index=-1,
        max_tries=max_tries,
        start_date=now,
        task=operator,
        dag_version_id=uuid6.uuid7(),
        bundle_instance=SimpleNamespace(name="unit", version=None),
    )
    instance._ti_context_from_server = TIRunContext(
        dag_run=dag_run,
        max_tries=max_tries,
        should_retry=try_number <= max_tries,
        next_method=resume[0] if resume else None,
        next_kwargs=resume[1] if resume else None,
    )
    return instance
