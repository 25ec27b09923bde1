from __future__ import annotations

from unittest.mock import create_autospec

import pytest

from edge_training.exceptions import ComputeError
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.operators import compute
from edge_training.operators.compute import EnsureComputeAttachedOperator
from edge_training.records import AttachedCompute

# The states that Azure ML passes through while somebody else attaches cannot be held still in a real workspace.
CREATING = AttachedCompute("edge-vm", "10.0.0.4", 22, "", "Creating")
READY = AttachedCompute("edge-vm", "10.0.0.4", 22, "", "Succeeded")


@pytest.fixture(autouse=True)
def _poll_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_POLL_SECONDS", 0.01)


def operator(timeout: float) -> EnsureComputeAttachedOperator:
    return EnsureComputeAttachedOperator(
        task_id="t", compute_name="edge-vm", python="python3", attach_timeout_seconds=timeout
    )


def test_a_vm_that_another_dag_run_is_attaching_is_waited_for() -> None:
    azure_ml = create_autospec(AzureMLHook, instance=True)
    azure_ml.find_compute.side_effect = [CREATING, CREATING, READY]
    assert operator(60)._settled(azure_ml) == READY


def test_a_vm_that_is_being_detached_is_found_to_be_gone() -> None:
    azure_ml = create_autospec(AzureMLHook, instance=True)
    azure_ml.find_compute.side_effect = [AttachedCompute("edge-vm", "", 22, "", "Deleting"), None]
    assert operator(60)._settled(azure_ml) is None


def test_a_vm_that_never_gets_attached_is_told_with_its_state() -> None:
    azure_ml = create_autospec(AzureMLHook, instance=True)
    azure_ml.find_compute.return_value = CREATING
    with pytest.raises(ComputeError, match="'edge-vm' is still Creating after 0 s"):
        operator(0.0)._settled(azure_ml)
