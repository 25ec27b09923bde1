"""Cleans up what no task can clean up after itself, because its process, or its triggerer, is gone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.airflow_state import is_dag_run_over
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.operators.grant import remove_expired_grants

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk import Context
    from airflow.sdk.types import Logger

    from edge_training.records import JsonObject


def cancel_abandoned_runs(
    hook: AzureMLHook, site: str, experiment: str, is_over: Callable[[str, str], bool], log: Logger
) -> list[str]:
    """Cancel the runs of a site that go on although the DAG run that started them is over, and return their ids.

    :param hook: the workspace.
    :param site: the site's name, the value of the tag ``site``.
    :param experiment: the site's experiment.
    :param is_over: tells of a DAG and a DAG run whether it is over, or does not exist any more.
    :param log: where to say it.
    :raises ServiceError: when Azure ML cannot be asked.
    """
    abandoned: list[str] = []
    for run in hook.runs_tagged({"site": site}, experiment):
        dag_id, dag_run_id = run.tags.get("dag_id"), run.tags.get("dag_run_id")
        # A run without these tags is somebody else's, or was submitted a moment ago and is not tagged yet.
        if dag_id and dag_run_id and is_over(dag_id, dag_run_id):
            log.warning(
                "Cancelling run %s (%s): its DAG run %s is over.", run.status.run_id, run.status.state, dag_run_id
            )
            hook.cancel(run.status.run_id)
            abandoned.append(run.status.run_id)
    return abandoned


class SweepSiteOperator(BaseOperator):
    """Cancels the remote runs of a site that nobody waits for any more, and removes its expired grants.

    A person may end a task while the triggerer is down, and a machine may die with a task on it: then Airflow tells nobody, and the run
    goes on. This task finds such runs by their lineage tags.

    :param site: the site's name.
    :param experiment: the site's experiment.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param training_vm_conn_id: Airflow connection of the VM.
    :returns: ids of the runs that were cancelled and names of the grants that were removed.
    :raises ServiceError: when Azure ML cannot be asked.
    :raises ComputeError: when the VM cannot be reached.
    """

    template_fields: Sequence[str] = ("experiment",)

    def __init__(
        self,
        *,
        site: str,
        experiment: str,
        azure_ml_conn_id: str = "azure_ml",
        training_vm_conn_id: str = "training_vm",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.experiment = experiment
        self.azure_ml_conn_id = azure_ml_conn_id
        self.training_vm_conn_id = training_vm_conn_id

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - the interface of Airflow
        """Look for what is left, and clean it up."""
        from edge_training.hooks.training_vm import TrainingVMHook

        hook = AzureMLHook(self.azure_ml_conn_id)
        runs = cancel_abandoned_runs(hook, self.site, self.experiment, is_dag_run_over, self.log)
        with TrainingVMHook(self.training_vm_conn_id) as vm:
            expired = remove_expired_grants(vm, datetime.now(UTC))
        self.log.info("Site '%s': cancelled %d runs, removed %d expired grants.", self.site, len(runs), len(expired))
        return {"cancelled": runs, "removed_grants": expired}
