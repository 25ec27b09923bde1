"""Cleans up what no task can clean up after itself, because its process, or its triggerer, is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.airflow_state import is_dag_run_over
from edge_training.operators.grant import remove_old_grants
from edge_training.operators.leftovers import cancel_abandoned_runs, settle_versions
from edge_training.operators.wiping import wipe_abandoned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from edge_training.records import JsonObject


class SweepSiteOperator(BaseOperator):
    """Cancels a site's remote runs that nobody waits for any more, removes old grants and what killed runs left, settles model versions.

    A person may end a task while the triggerer is down, and a machine may die with a task on it: then Airflow tells nobody, and the run
    goes on. This task finds what is left by its lineage tags. Every DAG run of the site does the same before it adds to it.

    :param site: the site's name.
    :param dag_id: the site's DAG.
    :param experiment: the site's experiment.
    :param model_name: the site's model.
    :param repository: where the images of the model are.
    :param scripts_folder: ``include/training_scripts``, with the runner that knows what a run leaves on the VM.
    :param python: an interpreter on the VM.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param training_vm_conn_id: Airflow connection of the VM.
    :param container_registry_conn_id: Airflow connection of the registry.
    :returns: ids of the runs that were cancelled, names of the grants and number of the files that were removed, and ids of the versions
        that were completed or marked as incomplete.
    :raises ServiceError: when Azure ML or the registry cannot be asked.
    :raises ComputeError: when the VM cannot be reached.
    """

    template_fields: Sequence[str] = ("experiment", "model_name", "repository")

    def __init__(
        self,
        *,
        site: str,
        dag_id: str,
        experiment: str,
        model_name: str,
        repository: str,
        scripts_folder: str,
        python: str = "python3",
        azure_ml_conn_id: str = "azure_ml",
        training_vm_conn_id: str = "training_vm",
        container_registry_conn_id: str = "container_registry",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.site_dag_id = dag_id
        self.experiment = experiment
        self.model_name = model_name
        self.repository = repository
        self.scripts_folder = scripts_folder
        self.python = python
        self.azure_ml_conn_id = azure_ml_conn_id
        self.training_vm_conn_id = training_vm_conn_id
        self.container_registry_conn_id = container_registry_conn_id

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - the interface of Airflow
        """Look for what is left, and clean it up; the runs first, because they cost most."""
        from edge_training.hooks.azure_ml_versions import AzureMLVersionsHook
        from edge_training.hooks.container_registry import ContainerRegistryHook
        from edge_training.hooks.training_vm import TrainingVMHook

        hook = AzureMLVersionsHook(self.azure_ml_conn_id)
        runs = cancel_abandoned_runs(hook, self.site, self.experiment, is_dag_run_over, self.log)
        with TrainingVMHook(self.training_vm_conn_id) as vm:
            removed = remove_old_grants(vm, self.site_dag_id, self.log)
            wiped = wipe_abandoned(vm, self.scripts_folder, self.python, self.log)
        with ContainerRegistryHook(self.container_registry_conn_id).client() as registry:
            model = (self.model_name, self.repository)
            settled = settle_versions(hook, registry, model, self.site, is_dag_run_over, self.log)
        self.log.info(
            "Site '%s': cancelled %d runs, removed %d grants and %d files of killed runs, completed %d versions, marked %d as incomplete.",
            self.site,
            len(runs),
            len(removed),
            wiped,
            len(settled.completed),
            len(settled.incomplete),
        )
        return {
            "cancelled": runs,
            "removed_grants": removed,
            "wiped_files": wiped,
            "completed_versions": settled.completed,
            "incomplete_versions": settled.incomplete,
        }
