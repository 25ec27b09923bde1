"""Who ends a task ends its run, and nothing else does; in a real Airflow, whose triggerer waits for the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from demo.settings import DAG_ID
from tests.system.chaos.stack import ChaosStack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from demo.api import TaskState

pytestmark = pytest.mark.timeout(400)

TRIGGERER = "airflow-triggerer"
SLOW = """
import time
import edge_context
for second in range({seconds}):
    edge_context.log_text(f"still here after {{second}} s")
    time.sleep(1)
edge_context.log_metric("roc_auc", 1.0)
edge_context.save_model(b"a model of nothing", "model.onnx")
"""
RUN_STATE = """
import os, sys, warnings
warnings.simplefilter("ignore")
from azureml.core import Run, Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
e = os.environ
auth = ServicePrincipalAuthentication(
    e["LOCAL_SITE_TENANT_ID"], e["LOCAL_SITE_CLIENT_ID"], e["LOCAL_SITE_CLIENT_SECRET"], cloud=e["AZUREML_CURRENT_CLOUD"]
)
workspace = Workspace(e["LOCAL_SITE_SUBSCRIPTION_ID"], e["LOCAL_SITE_RESOURCE_GROUP"], e["LOCAL_SITE_WORKSPACE"], auth=auth)
print(Run.get(workspace, sys.argv[1]).get_status())
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosStack]:
    """Bring up a site and an Airflow of the module's own."""
    before = dict(os.environ)
    stack = ChaosStack(tmp_path_factory.mktemp("kill"))
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
        os.environ.clear()
        os.environ.update(before)


def wait_for(what: str, found: Callable[[], Any], seconds: float = 90.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(0.3)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


def task(stack: ChaosStack, dag_run: str, task_id: str) -> TaskState:
    return next(one for one in stack.api.tasks(DAG_ID, dag_run) if one.task_id == task_id)


def remote_lines(stack: ChaosStack, dag_run: str) -> list[str]:
    lines = stack.api.log(DAG_ID, dag_run, task(stack, dag_run, "poll_run"))
    return [line.text for line in lines if "[remote] script | still here" in line.text]


def start_slow_run(stack: ChaosStack, seconds: int) -> str:
    """Start a DAG run whose script takes this long, and return when the triggerer has printed its first line."""
    (stack.scripts / "breast_cancer" / "train.py").write_text(SLOW.format(seconds=seconds))
    dag_run = stack.api.trigger(DAG_ID)
    wait_for("a line of the remote log", lambda: remote_lines(stack, dag_run))
    assert task(stack, dag_run, "poll_run").state == "deferred"
    return dag_run


def run_state(stack: ChaosStack, dag_run: str) -> str:
    run_id = stack.api.xcom(DAG_ID, dag_run, "submit_experiment")["run_id"]
    command = [sys.executable, "-c", RUN_STATE, run_id]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env={**os.environ})
    return done.stdout.strip().splitlines()[-1]


def test_marking_a_deferred_task_failed_cancels_its_run(stack: ChaosStack) -> None:
    dag_run = start_slow_run(stack, seconds=200)
    path = f"/dags/{DAG_ID}/dagRuns/{dag_run}/taskInstances/poll_run"
    stack.api._send("PATCH", path, {"new_state": "failed"})
    wait_for("the end of the run", lambda: run_state(stack, dag_run) == "Canceled")
    wait_for("the end of the DAG run", lambda: stack.api.run_state(DAG_ID, dag_run)[0] == "failed")
    assert task(stack, dag_run, "revoke_data_access").state == "success"


def test_a_triggerer_that_is_killed_loses_neither_the_run_nor_a_line_of_its_log(stack: ChaosStack) -> None:
    dag_run = start_slow_run(stack, seconds=25)
    before = len(remote_lines(stack, dag_run))
    stack.kill(TRIGGERER)
    wait_for("the end of the triggerer", lambda: not stack.runs(TRIGGERER))
    stack.start_again(TRIGGERER)
    wait_for("the end of the DAG run", lambda: stack.api.run_state(DAG_ID, dag_run)[0] in {"success", "failed"}, 180)
    assert stack.api.run_state(DAG_ID, dag_run)[0] == "success"
    assert task(stack, dag_run, "poll_run").try_number == 1
    lines = [line.rpartition("after ")[2] for line in remote_lines(stack, dag_run)]
    assert lines == [f"{second} s" for second in range(25)], json.dumps({"before": before, "lines": lines})
