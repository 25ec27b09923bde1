"""Step 2 of the pattern: the VM that trains, measured and attached to Azure ML."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.blob_checks import size_text
from edge_training.exceptions import ComputeError
from edge_training.records import ComputeTarget, JsonObject
from edge_training.vm_checks import (
    CHANGING_STATES,
    VMMeasurement,
    VMNeeds,
    WantedCompute,
    decide_attach,
    differences,
    unfit_reasons,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from edge_training.hooks.azure_ml import AzureMLHook
    from edge_training.hooks.training_vm import TrainingVMHook
    from edge_training.records import AttachedCompute

_POLL_SECONDS = 2.0
_DONE = {"attach": "attached", "reattach": "reattached", "unchanged": "unchanged"}


class EnsureComputeAttachedOperator(BaseOperator):
    """Makes sure that the VM is the right machine, fit to train, reaches the data, and is attached to the workspace.

    The VM is attached when the workspace has no compute target of the name, another VM under it, or one whose attachment failed; otherwise
    nothing is changed. All that the VM lacks is told together.

    :param compute_name: the compute target's name in the workspace.
    :param python: the interpreter that training uses on the VM, such as ``"~/training-env/bin/python"``.
    :param needs: what training needs of the VM: a :class:`VMNeeds` or an object with some of its fields.
    :param work_dir: the folder that runs work in, whose free space is measured.
    :param resource_id: attach the VM by this ARM resource id instead of by address.
    :param address: what Azure ML reaches the VM by, when that differs from the connection's host.
    :param port: likewise for the SSH port.
    :param attach_timeout_seconds: how long attaching may take.
    :param training_vm_conn_id: the Airflow connection to the VM.
    :param blob_conn_id: the Airflow connection to the blob store.
    :param azure_ml_conn_id: the Airflow connection to the workspace.
    :raises ComputeError: when the VM cannot be reached, is another machine, is unfit, does not reach the data, or cannot be attached.
    :raises ServiceError: when Azure ML refuses or does not answer.
    """

    template_fields = (
        "compute_name",
        "python",
        "needs",
        "work_dir",
        "resource_id",
        "address",
        "port",
        "training_vm_conn_id",
        "blob_conn_id",
        "azure_ml_conn_id",
    )
    ui_color = "#dcfce7"

    def __init__(
        self,
        *,
        compute_name: str,
        python: str,
        needs: VMNeeds | Mapping[str, Any] | None = None,
        work_dir: str = "~",
        resource_id: str | None = None,
        address: str | None = None,
        port: int | str | None = None,
        attach_timeout_seconds: float = 300.0,
        training_vm_conn_id: str = "training_vm",
        blob_conn_id: str = "stack_hub_blob",
        azure_ml_conn_id: str = "azure_ml",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.compute_name = compute_name
        self.python = python
        self.needs = needs
        self.work_dir = work_dir
        self.resource_id = resource_id
        self.address = address
        self.port = port
        self.attach_timeout_seconds = attach_timeout_seconds
        self.training_vm_conn_id = training_vm_conn_id
        self.blob_conn_id = blob_conn_id
        self.azure_ml_conn_id = azure_ml_conn_id

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - Airflow's signature
        """Check the VM, attach it when needed, and return the compute target."""
        from edge_training.hooks.training_vm import TrainingVMHook

        needs = VMNeeds.of(self.needs)
        with TrainingVMHook(self.training_vm_conn_id) as vm:
            found = self._checked_vm(vm, needs)
            self._check_reach(vm, found.python)
            wanted = WantedCompute(self.address or vm.host, int(self.port or vm.port), self.resource_id or "")
            decision = self._attach(vm, wanted)
        return ComputeTarget(
            name=self.compute_name,
            address="" if wanted.resource_id else wanted.address,
            port=wanted.port,
            user=vm.user,
            resource_id=wanted.resource_id,
            host_key=vm.host_key.fingerprint,
            python=found.python,
            python_version=found.python_version,
            cpus=found.cpus,
            memory_bytes=found.memory_bytes,
            disk_free_bytes=found.disk_free_bytes,
            gpus=found.gpus,
            docker=found.docker,
            attached=decision,
        ).to_json()

    def _checked_vm(self, vm: TrainingVMHook, needs: VMNeeds) -> VMMeasurement:
        found = vm.measure(self.python, self.work_dir)
        self.log.info(
            "Logged in to %s@%s:%d, host key %s as pinned", vm.user, vm.host, vm.port, vm.host_key.fingerprint
        )
        self.log.info(
            "The VM has %d processors, %s memory, %s free disk, %d GPUs, Docker %s, Python %s (%s); its clock is off by %.0f s",
            found.cpus,
            size_text(found.memory_bytes),
            size_text(found.disk_free_bytes),
            found.gpus,
            found.docker or "none",
            found.python_version or "none",
            found.python,
            found.clock_skew_seconds,
        )
        if found.is_root:
            self.log.warning(
                "The training account is root: Azure ML gets its credential, so use an account that can only train."
            )
        if reasons := unfit_reasons(found, needs):
            raise ComputeError(
                f"Training VM {vm.user}@{vm.host}:{vm.port} is not fit for compute target '{self.compute_name}': {'; '.join(reasons)}."
            )
        return found

    def _check_reach(self, vm: TrainingVMHook, python: str) -> None:
        from edge_training.hooks.stack_hub_blob import StackHubBlobHook

        blobs = StackHubBlobHook(self.blob_conn_id)
        status = vm.reach(blobs.account_url, blobs.ca_pem(), python)
        self.log.info("The VM reaches the blob store at %s (HTTP %d without a permission)", blobs.account_url, status)

    def _attach(self, vm: TrainingVMHook, wanted: WantedCompute) -> str:
        from edge_training.hooks.azure_ml import AzureMLHook

        azure_ml = AzureMLHook(self.azure_ml_conn_id)
        found = self._settled(azure_ml)
        decision = decide_attach(found, wanted)
        target = wanted.resource_id or f"{wanted.address}:{wanted.port}"
        if found is None:
            self.log.info("The workspace has no compute target '%s': attaching %s", self.compute_name, target)
        elif decision == "unchanged":
            self.log.info("Compute target '%s' is attached to %s already: nothing to change", self.compute_name, target)
        else:
            why = "; ".join([*found.errors, *differences(found, wanted)]) or f"its state is {found.provisioning_state}"
            self.log.warning("Compute target '%s' is attached again to %s: %s", self.compute_name, target, why)
            azure_ml.detach(self.compute_name)
        if decision != "unchanged":
            with vm.private_key_file() as key_file:
                azure_ml.attach_vm(
                    self.compute_name,
                    address=None if wanted.resource_id else wanted.address,
                    port=wanted.port,
                    user=vm.user,
                    password=vm.password or None,
                    private_key_file=key_file,
                    passphrase=vm.passphrase or None,
                    resource_id=wanted.resource_id or None,
                    timeout_seconds=self.attach_timeout_seconds,
                )
        return _DONE[decision]

    def _settled(self, azure_ml: AzureMLHook) -> AttachedCompute | None:
        """Return the compute target once nobody is changing it: another DAG run may be attaching it at this moment."""
        deadline = time.monotonic() + self.attach_timeout_seconds
        while (found := azure_ml.find_compute(self.compute_name)) and found.provisioning_state in CHANGING_STATES:
            if time.monotonic() > deadline:
                raise ComputeError(
                    f"Compute target '{self.compute_name}' is still {found.provisioning_state} after {self.attach_timeout_seconds:.0f} s: "
                    "look at it in Azure ML Studio, or detach it there."
                )
            time.sleep(_POLL_SECONDS)
        return found
