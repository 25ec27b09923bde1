from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ComputeError, ConfigurationError
from edge_training.hooks.stack_hub_blob import StackHubBlobHook
from edge_training.operators.compute import EnsureComputeAttachedOperator
from edge_training.records import ComputeTarget
from tests.integration.training.conftest import azure_ml_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_training.hooks.azure_ml import AzureMLHook
    from edge_training.hooks.training_vm import TrainingVMHook
    from tests.airflow_harness import AirflowConnection, RunTask

PYTHON = "~/training-env/bin/python"
# A name of this module's own: other tests use the same site, and have attached its VM under the usual one.
COMPUTE = "vm-under-test"


def operator(**options: Any) -> EnsureComputeAttachedOperator:
    return EnsureComputeAttachedOperator(
        **{"task_id": "ensure_compute_attached", "compute_name": COMPUTE, "python": PYTHON} | options
    )


@pytest.fixture
def ready(vm: TrainingVMHook, blob_connection: dict[str, Any]) -> TrainingVMHook:
    return vm


@pytest.fixture
def workspace(
    local_site_env: dict[str, str], airflow_connection: AirflowConnection, ready: TrainingVMHook
) -> AzureMLHook:
    """Give the local site's workspace."""
    from edge_training.hooks.azure_ml import AzureMLHook

    airflow_connection("azure_ml", **azure_ml_fields(local_site_env))
    return AzureMLHook()


def test_the_vm_is_attached_once_and_then_left_alone(
    workspace: AzureMLHook, ready: TrainingVMHook, run_task: RunTask
) -> None:
    first = ComputeTarget.from_json(run_task(operator()).value)
    again = ComputeTarget.from_json(run_task(operator()).value)
    assert (first.attached, again.attached) == ("attached", "unchanged")
    assert (first.address, first.port, first.user) == (ready.host, ready.port, ready.user)
    assert first.python == f"{ready.home()}/training-env/bin/python"
    assert first.python_version.startswith("3.11.")
    assert first.host_key == ready.host_key.fingerprint
    found = workspace.find_compute(COMPUTE)
    assert found is not None
    assert (found.address, found.port, found.provisioning_state) == (ready.host, ready.port, "Succeeded")


def test_another_vm_under_the_name_is_replaced(
    workspace: AzureMLHook, ready: TrainingVMHook, run_task: RunTask
) -> None:
    assert run_task(operator(compute_name="moved")).value["attached"] == "attached"
    moved = run_task(operator(compute_name="moved", address="localhost"))
    assert moved.value["attached"] == "reattached"
    assert moved.value["address"] == "localhost"
    found = workspace.find_compute("moved")
    assert found is not None
    assert found.address == "localhost"


def test_a_key_that_stands_in_the_connection_attaches_too(
    workspace: AzureMLHook,
    vm_fields: dict[str, Any],
    connect: Callable[[dict[str, Any]], TrainingVMHook],
    run_task: RunTask,
) -> None:
    extra = {
        "host_key": vm_fields["extra"]["host_key"],
        "private_key": Path(vm_fields["extra"]["key_file"]).read_text(),
    }
    connect(vm_fields | {"extra": extra})
    assert run_task(operator(compute_name="by-text")).value["attached"] == "attached"


def test_names_and_ports_are_templates(workspace: AzureMLHook, ready: TrainingVMHook, run_task: RunTask) -> None:
    task = operator(compute_name="{{ dag_run.conf['vm'] }}", port="{{ dag_run.conf['port'] }}")
    found = run_task(task, conf={"vm": "templated", "port": str(ready.port)}).value
    assert (found["name"], found["port"]) == ("templated", ready.port)


def test_every_shortfall_is_told_and_nothing_is_attached(ready: TrainingVMHook, run_task: RunTask) -> None:
    needs = {"cpus": 1024, "memory_bytes": 1 << 50, "disk_bytes": 1 << 60, "gpus": 8}
    outcome = run_task(operator(python="~/no-such-env/bin/python", needs=needs))
    assert isinstance(outcome.error, ComputeError)
    for part in (
        f"Training VM {ready.user}@{ready.host}:{ready.port} is not fit for compute target '{COMPUTE}'",
        "needed 1024",
        "needed 1.0 PiB",
        "needed 1024.0 PiB",
        "GPUs: found 0, needed 8",
        "/no-such-env/bin/python' is missing or does not start",
    ):
        assert part in str(outcome.error)


def test_needs_that_make_no_sense_fail_at_once(ready: TrainingVMHook, run_task: RunTask) -> None:
    outcome = run_task(operator(needs={"cpu": 4}))
    assert isinstance(outcome.error, ConfigurationError)
    assert "no need 'cpu'; known are cpus" in str(outcome.error)


def test_a_blob_store_that_the_vm_does_not_reach_is_told(
    ready: TrainingVMHook, blob_connection: dict[str, Any], airflow_connection: AirflowConnection, run_task: RunTask
) -> None:
    airflow_connection("stack_hub_blob", **blob_connection | {"host": "https://127.0.0.1:1/edgedata"})
    outcome = run_task(operator())
    assert isinstance(outcome.error, ComputeError)
    assert "cannot reach https://127.0.0.1:1/edgedata: nothing listens there" in str(outcome.error)


def test_a_vm_that_does_not_trust_the_blob_store_is_told_with_the_setting(
    ready: TrainingVMHook, blob_connection: dict[str, Any], airflow_connection: AirflowConnection, run_task: RunTask
) -> None:
    airflow_connection("stack_hub_blob", **blob_connection | {"extra": {}})
    assert StackHubBlobHook().ca_pem() == ""
    outcome = run_task(operator())
    assert isinstance(outcome.error, ComputeError)
    assert "set extra ca_certificate of the blob connection" in str(outcome.error)


def test_another_machine_under_the_address_is_told(
    vm_fields: dict[str, Any],
    blob_connection: dict[str, Any],
    connect: Callable[[dict[str, Any]], TrainingVMHook],
    run_task: RunTask,
) -> None:
    other = "SHA256:" + "A" * 43
    connect(vm_fields | {"extra": {**vm_fields["extra"], "host_key": other}})
    outcome = run_task(operator())
    assert isinstance(outcome.error, ComputeError)
    assert f"pinned is {other}" in str(outcome.error)
