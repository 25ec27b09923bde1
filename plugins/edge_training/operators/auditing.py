"""What the tasks that audit runs have in common: whom they ask, and where receipts go."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.operators.run_audit import RunAuditor, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edge_training.hooks.azure_ml_evidence import AzureMLEvidenceHook
    from edge_training.residency.submitted import Submitted


class AuditingOperator(BaseOperator):
    """A task that audits runs of a site.

    :param site: the site's name.
    :param experiment: the site's experiment, to find all runs in; ``None`` for all experiments.
    :param parameters: what the script was given.
    :param container: the blob container for receipts.
    :param delete_foreign_artifacts: whether files that nobody let out are deleted from the run.
    :param platform_files: patterns of further files that the platform writes.
    :param settle: how long things that are missing may still arrive; what is too much is never waited for.
    :param key_conn_id: Airflow connection of the key that signs receipts.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param training_vm_conn_id: Airflow connection of the VM.
    :param blob_conn_id: Airflow connection of the blob storage.
    """

    ui_color = "#fde7e9"

    def __init__(
        self,
        *,
        site: str,
        experiment: str | None = None,
        parameters: Mapping[str, str | float | bool] | None = None,
        container: str = "residency-receipts",
        delete_foreign_artifacts: bool = False,
        platform_files: Sequence[str] = (),
        settle: timedelta = timedelta(seconds=30),
        key_conn_id: str = "residency_key",
        azure_ml_conn_id: str = "azure_ml",
        training_vm_conn_id: str = "training_vm",
        blob_conn_id: str = "stack_hub_blob",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.experiment = experiment
        self.parameters = dict(parameters or {})
        self.container = container
        self.delete_foreign_artifacts = delete_foreign_artifacts
        self.platform_files = tuple(platform_files)
        self.settle = settle
        self.key_conn_id = key_conn_id
        self.azure_ml_conn_id = azure_ml_conn_id
        self.training_vm_conn_id = training_vm_conn_id
        self.blob_conn_id = blob_conn_id

    @contextmanager
    def _auditor(self, hook: AzureMLEvidenceHook, verified: Submitted | None) -> Iterator[RunAuditor]:
        """Open what an audit needs besides Azure ML.

        :param hook: asks Azure ML.
        :param verified: what the DAG run had verified, and gave to its runs; ``None`` when nobody knows any more.
        """
        from edge_training.hooks.receipt_store import ReceiptStore
        from edge_training.hooks.residency_key import ResidencyKeyHook
        from edge_training.hooks.training_vm import TrainingVMHook

        scope = Scope(
            site=self.site,
            verified=verified,
            platform_files=self.platform_files,
            settle_seconds=self.settle.total_seconds(),
            delete_foreign=self.delete_foreign_artifacts,
        )
        store, key = ReceiptStore(self.container, self.blob_conn_id), ResidencyKeyHook(self.key_conn_id).key()
        with TrainingVMHook(self.training_vm_conn_id) as vm:
            yield RunAuditor(scope, hook, vm, store, key, self.log)
