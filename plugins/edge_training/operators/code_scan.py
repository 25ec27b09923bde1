"""Looks for training data in the code before it leaves, where the data is: on the VM."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.exceptions import ConfigurationError, ResidencyError
from edge_training.operators.code import staged_source
from edge_training.operators.scanning import data_findings, look_for_data, packed_folder, policy_arguments
from edge_training.records import CodeManifest, ComputeTarget, DataGrant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from edge_training.records import JsonObject


class ScanTrainingCodeOperator(BaseOperator):
    """Has the runner's scanner look for rows and cells of the granted data in the files that will leave as the run's snapshot.

    The data stays on premises: the code goes to the VM over SSH, is scanned there beside the data, and removed. The grant is used and kept.

    :param project: folder of the scripts folder with ``train.py``.
    :param scripts_folder: ``include/training_scripts``.
    :param code: :class:`~edge_training.records.CodeManifest` of ``check_training_code``.
    :param compute: :class:`~edge_training.records.ComputeTarget` of ``ensure_compute_attached``.
    :param grant: :class:`~edge_training.records.DataGrant` of ``grant_data_access``.
    :param policy: settings of the gate and the sandbox, as for ``check_training_code``.
    :param maximum_duration: how long it may take; it reads all of the data once.
    :param training_vm_conn_id: Airflow connection of the VM.
    :returns: what the scanner counted.
    :raises ResidencyError: when a file holds training data; nothing was sent.
    :raises ConfigurationError: when the code has changed since it was checked.
    :raises ComputeError: when the VM cannot be reached or could not scan.
    """

    template_fields: Sequence[str] = ("project", "code", "compute", "grant")
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        project: str,
        scripts_folder: str,
        code: Any,
        compute: Any,
        grant: Any,
        policy: Mapping[str, Any] | None = None,
        maximum_duration: timedelta = timedelta(hours=1),
        training_vm_conn_id: str = "training_vm",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.project = project
        self.scripts_folder = scripts_folder
        self.code = code
        self.compute = compute
        self.grant = grant
        self.policy = dict(policy or {})
        self.maximum_duration = maximum_duration
        self.training_vm_conn_id = training_vm_conn_id

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - the interface of Airflow
        """Send the code to the VM, scan it there, and judge what was found."""
        from edge_training.hooks.training_vm import TrainingVMHook

        grant, compute = DataGrant.from_json(self.grant), ComputeTarget.from_json(self.compute)
        with staged_source(Path(self.scripts_folder), self.project, self.policy) as (source, manifest):
            if manifest.digest != CodeManifest.from_json(self.code).digest:
                raise ConfigurationError(
                    f"The code of project '{self.project}' has changed since check_training_code looked at it. Clear that task."
                )
            packed = packed_folder(source)
        arguments = ["--tree", ".", "--grant", grant.path, "--fingerprint", grant.fingerprint]
        with TrainingVMHook(self.training_vm_conn_id) as vm:
            verdict = look_for_data(
                vm,
                compute.python,
                packed,
                [*arguments, *policy_arguments(self.policy)],
                what="the code, so nothing was sent",
                seconds=self.maximum_duration.total_seconds(),
            )
        self._judge(verdict)
        self.log.info(
            "%d files, %d bytes of code were compared with %d blobs, %d bytes of data: nothing of it is among them.",
            verdict["files"],
            verdict["bytes"],
            verdict["data"]["blobs"],
            verdict["data"]["bytes"],
        )
        return {"files": verdict["files"], "bytes": verdict["bytes"], "findings": len(verdict["findings"])}

    def _judge(self, verdict: Mapping[str, Any]) -> None:
        """Fail when there is data in a file; its name is repeated only if it is not what holds the data."""
        data = data_findings(verdict, self.log)
        if data:
            named = "; ".join(f"{one['file'] or 'the name of a file'} ({one['reason']})" for one in data[:10])
            raise ResidencyError(
                f"{len(data)} files of project '{self.project}' hold training data: {named}. They would be uploaded to Azure ML with the "
                "run; nothing was sent. Take the data out of the code."
            )
