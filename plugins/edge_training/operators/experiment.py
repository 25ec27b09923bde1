"""Submits a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.execution_time.context import NEVER_EXPIRE

from edge_training.airflow_state import is_dag_run_over
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.lifecycle import Action, decide, run_key
from edge_training.operators.leftovers import cancel_abandoned_runs
from edge_training.operators.submission import PARAMETERS_KEY, TrainingRunOperator
from edge_training.records import ComputeTarget, DataGrant, RunHandle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from edge_training.records import JsonObject

STATE_KEY = "submitted"


class SubmitExperimentOperator(TrainingRunOperator):
    """Submits the project's script as a run on the training VM, once per DAG run, however often the task is tried.

    The run's id is made of DAG run and attempt before anything is sent, and Azure ML is asked for it first: a try that comes after a lost
    answer or a killed worker finds the run and attaches to it. What a person's clear has replaced is cancelled.

    :param grant: :class:`~edge_training.records.DataGrant` of ``grant_data_access``.
    :param kwargs: see :class:`~edge_training.operators.submission.TrainingRunOperator`.
    :returns: a :class:`~edge_training.records.RunHandle`.
    :raises ConfigurationError: when the code has changed since it was checked.
    :raises ServiceError: when Azure ML refuses the run or cannot be asked.
    """

    template_fields: Sequence[str] = (*TrainingRunOperator.template_fields, "grant")

    def __init__(self, *, grant: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grant = grant

    def execute(self, context: Context) -> JsonObject:
        """Find out what an earlier try did, and do what is left."""
        ti = context["ti"]
        hook = AzureMLHook(self.azure_ml_conn_id)
        compute = ComputeTarget.from_json(self.compute)
        # Airflow raises max_tries when a person clears the task and never by itself.
        key = run_key(ti.dag_id, ti.run_id, ti.max_tries)
        self._replace(context, hook, key)
        decision = decide(key, hook.find_run, retry=ti.try_number > 1)
        if decision.action is Action.SUBMIT:
            # What an earlier DAG run left behind would take this one's place on the VM.
            cancel_abandoned_runs(hook, self.site, self.experiment, is_dag_run_over, self.log)
            # The runner removes the grant of each attempt at its end: only the first finds the one that was handed on.
            grant = DataGrant.from_json(self.grant) if decision.attempt == 1 else None
            if self.parameters:
                # Templates are rendered for this DAG run only; whoever audits its runs when it is over could not know them.
                ti.xcom_push(PARAMETERS_KEY, self.parameters)
            self._submit(hook, decision, (ti.dag_id, ti.run_id), grant)
        status = self._look_up(hook, decision, (ti.dag_id, ti.run_id))
        self.log.info(
            "Run %s: %s, it is %s. See %s", status.run_id, decision.action.value, status.state, status.portal_url
        )
        return RunHandle(
            run_id=decision.run_id,
            experiment=self.experiment,
            compute=compute.name,
            attempt=decision.attempt,
            decision=decision.action.value,
            portal_url=status.portal_url,
        ).to_json()

    def _replace(self, context: Context, hook: AzureMLHook, key: str) -> None:
        """Cancel the runs of the start that a person has replaced, and remember this one."""
        store = context["task_state_store"]
        before = str(store.get(STATE_KEY) or "")
        if before != key:
            self._cancel_superseded(hook, before)
            store.set(STATE_KEY, key, retention=NEVER_EXPIRE)
