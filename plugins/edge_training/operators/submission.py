"""What the tasks share that may send a run to Azure ML: the one that submits, and the one that waits and may have to try again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.airflow_state import is_still_wanted
from edge_training.exceptions import ConfigurationError, EdgeTrainingError
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.lifecycle import MAXIMUM_ATTEMPTS, Action, Phase, phase_of, run_id_of
from edge_training.lineage import run_arguments, run_lineage
from edge_training.links import RunLink
from edge_training.operators.code import staged_source
from edge_training.operators.grant import write_grant
from edge_training.records import BlobManifest, CodeManifest, ComputeTarget, DataGrant
from edge_training.residency.submitted import Submitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from edge_training.lifecycle import Decision
    from edge_training.records import RunStatus

ENTRY_SCRIPT = "edge_run/__main__.py"

PARAMETERS_KEY = "parameters"
"""The XCom of ``submit_experiment`` that has what the script was given."""


class TrainingRunOperator(BaseOperator):
    """Can send the project's script as a run to the training VM.

    :param site: the site's name, for the lineage.
    :param experiment: the experiment's name.
    :param project: folder of the scripts folder with ``train.py``.
    :param scripts_folder: ``include/training_scripts``.
    :param parameters: handed to the script.
    :param policy: settings of the gate and the sandbox, as for ``check_training_code``.
    :param maximum_duration: after this Azure ML ends the run by itself.
    :param data: :class:`~edge_training.records.BlobManifest` of ``verify_blob_data``.
    :param code: :class:`~edge_training.records.CodeManifest` of ``check_training_code``.
    :param compute: :class:`~edge_training.records.ComputeTarget` of ``ensure_compute_attached``.
    :param grant_lifetime: how long the permission of a further attempt lasts; the runner removes that of each attempt.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param training_vm_conn_id: Airflow connection of the VM.
    :param blob_conn_id: Airflow connection of the blob store.
    :param receipts_container: the blob container for receipts, where it is written down what each run was submitted with.
    :param receipts_conn_id: Airflow connection of the blob store of that container; ``blob_conn_id`` when empty.
    """

    template_fields: Sequence[str] = ("experiment", "parameters", "data", "code", "compute")
    ui_color = "#d2e3fc"
    operator_extra_links = (RunLink(),)

    def __init__(
        self,
        *,
        site: str,
        experiment: str,
        project: str,
        scripts_folder: str,
        data: Any,
        code: Any,
        compute: Any,
        parameters: Mapping[str, str | float | bool] | None = None,
        policy: Mapping[str, Any] | None = None,
        maximum_duration: timedelta = timedelta(hours=6),
        grant_lifetime: timedelta = timedelta(hours=12),
        azure_ml_conn_id: str = "azure_ml",
        training_vm_conn_id: str = "training_vm",
        blob_conn_id: str = "stack_hub_blob",
        receipts_container: str = "residency-receipts",
        receipts_conn_id: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.experiment = experiment
        self.project = project
        self.scripts_folder = scripts_folder
        self.data = data
        self.code = code
        self.compute = compute
        self.parameters = dict(parameters or {})
        self.policy = dict(policy or {})
        self.maximum_duration = maximum_duration
        self.grant_lifetime = grant_lifetime
        self.azure_ml_conn_id = azure_ml_conn_id
        self.training_vm_conn_id = training_vm_conn_id
        self.blob_conn_id = blob_conn_id
        self.receipts_container = receipts_container
        self.receipts_conn_id = receipts_conn_id or blob_conn_id
        # What a signal handler needs: the run to cancel when a person ends the task, and which task instance this is.
        self._to_cancel: str | None = None
        self._instance: tuple[str, int] = ("", -1)

    def pre_execute(self, context: Context) -> None:
        """Remember which task instance this is."""
        ti = context["ti"]
        self._instance = (ti.run_id, -1 if ti.map_index is None else ti.map_index)

    def _submit(self, hook: AzureMLHook, decision: Decision, dag_run: tuple[str, str], grant: DataGrant | None) -> None:
        """Send a run.

        :param decision: its id and attempt.
        :param dag_run: ids of DAG and DAG run.
        :param grant: the permission that is on the VM already, or ``None`` to put a new one there.
        :raises ConfigurationError: when code or data are not those that were checked.
        """
        from edge_training.hooks.receipt_store import ReceiptStore

        data, code = BlobManifest.from_json(self.data), CodeManifest.from_json(self.code)
        compute = ComputeTarget.from_json(self.compute)
        tags = self._lineage(decision, dag_run)
        with staged_source(Path(self.scripts_folder), self.project, self.policy) as (source, now):
            if now.digest != code.digest:
                raise ConfigurationError(
                    f"The code of project '{self.project}' has changed since check_training_code looked at it ({code.digest} then, "
                    f"{now.digest} now). Clear check_training_code to train the new code."
                )
            if grant is None:
                grant = write_grant(
                    data, self.grant_lifetime, dag_run, self.training_vm_conn_id, self.blob_conn_id, self.log
                )
            # Before it is sent: whatever happens then, it can be audited.
            note = Submitted(data, code, self.parameters, dag_run).to_bytes(decision.run_id)
            ReceiptStore(self.receipts_container, self.receipts_conn_id).note(self.site, decision.run_id, note)
            self.log.info("Submitting run %s to compute target '%s'.", decision.run_id, compute.name)
            self._to_cancel = decision.run_id
            hook.submit(
                run_id=decision.run_id,
                experiment=self.experiment,
                compute=compute.name,
                source_directory=source,
                script=ENTRY_SCRIPT,
                arguments=self._arguments(data, grant),
                python=compute.python,
                tags=tags,
                maximum_seconds=int(self.maximum_duration.total_seconds()),
            )

    def _look_up(self, hook: AzureMLHook, decision: Decision, dag_run: tuple[str, str]) -> RunStatus:
        """Return the run as it is now, and complete its lineage.

        The SDK sends a run and its tags in two requests. A worker that is killed between them leaves a run without lineage, which the
        audit would refuse and the janitor would not know for ours.

        :param decision: its id and attempt.
        :param dag_run: ids of DAG and DAG run.
        """
        found = hook.look_up(decision.run_id)
        missing = {name: value for name, value in self._lineage(decision, dag_run).items() if name not in found.tags}
        if missing and decision.action is not Action.SUBMIT:
            self.log.warning(
                "Run %s has no %s: the try that submitted it ended before it could say so. Writing it now.",
                decision.run_id,
                ", ".join(missing),
            )
            hook.tag_run(decision.run_id, missing)
        return found.status

    def _lineage(self, decision: Decision, dag_run: tuple[str, str]) -> dict[str, str]:
        return run_lineage(
            site=self.site,
            data=BlobManifest.from_json(self.data),
            code=CodeManifest.from_json(self.code),
            dag_id=dag_run[0],
            dag_run_id=dag_run[1],
            run_id=decision.run_id,
            attempt=decision.attempt,
        )

    def _arguments(self, data: BlobManifest, grant: DataGrant) -> list[str]:
        """Return the runner's arguments; Azure ML stores them, so they name the grant and never hold one."""
        if grant.fingerprint != data.fingerprint:
            raise ConfigurationError(
                f"The grant on the VM is for data {grant.fingerprint}, the verified data is {data.fingerprint}. "
                "Clear verify_blob_data together with grant_data_access."
            )
        return run_arguments(grant.path, grant.fingerprint, self.parameters)

    def _cancel_superseded(self, hook: AzureMLHook, key: str) -> None:
        """Cancel what still runs of a start that a person has replaced by clearing the task.

        :param key: what the ids of those runs begin with, or ``""`` when there are none.
        """
        for attempt in range(1, MAXIMUM_ATTEMPTS + 1) if key else ():
            found = hook.find_run(run_id_of(key, attempt))
            if found is None:
                return
            if phase_of(found.state) is Phase.ACTIVE:
                self.log.info(
                    "Cancelling run %s: the task was cleared, and nobody waits for it any more.", found.run_id
                )
                hook.cancel(found.run_id)

    def on_kill(self) -> None:
        """Cancel the run when a person ends the task, and leave it alone when only the worker goes down.

        A worker that is stopped (a deployment, a machine that restarts) signals the task as well; the run goes on, and the next try finds
        it. Airflow knows the difference: after a person's action the task is no longer running there.
        """
        if self._to_cancel is None:
            return
        dag_run_id, map_index = self._instance
        if is_still_wanted(self.dag_id, self.task_id, dag_run_id, map_index):
            self.log.info("The worker goes down, run %s goes on: the next try will find it.", self._to_cancel)
            return
        self.log.info("The task was ended by a person: cancelling run %s.", self._to_cancel)
        try:
            AzureMLHook(self.azure_ml_conn_id).cancel(self._to_cancel)
        except EdgeTrainingError as error:
            self.log.warning("Run %s could not be cancelled now; the janitor will: %s", self._to_cancel, error)
