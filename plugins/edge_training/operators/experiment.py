"""Submits a training run and waits for it."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator, conf

from edge_training.exceptions import ConfigurationError, RunFailedError, ServiceError
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.lifecycle import (
    Action,
    Phase,
    decide,
    error_of,
    phase_of,
    run_key,
    seconds_between,
    timeout_error,
)
from edge_training.lineage import run_lineage
from edge_training.operators.code import staged_source
from edge_training.records import (
    BlobManifest,
    CodeManifest,
    ComputeTarget,
    DataGrant,
    RunHandle,
    RunResult,
    RunStatus,
)
from edge_training.triggers.run import RunTrigger, RunWatcher, deadline_after

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from edge_training.lifecycle import Decision
    from edge_training.records import JsonObject

ENTRY_SCRIPT = "edge_run/__main__.py"


class SubmitExperimentOperator(BaseOperator):
    """Submits the project's script as a run on the training VM, once per DAG run, however often the task is tried.

    The run's id is made of DAG run and attempt before anything is sent, and Azure ML is asked for it first: a try that comes after a lost
    answer or a killed worker finds the run and attaches to it.

    :param site: the site's name, for the lineage.
    :param experiment: the experiment's name.
    :param project: folder of the scripts folder with ``train.py``.
    :param scripts_folder: ``include/training_scripts``.
    :param parameters: handed to the script.
    :param maximum_duration: after this Azure ML ends the run by itself.
    :param data: :class:`~edge_training.records.BlobManifest` of ``verify_blob_data``.
    :param code: :class:`~edge_training.records.CodeManifest` of ``check_training_code``.
    :param compute: :class:`~edge_training.records.ComputeTarget` of ``ensure_compute_attached``.
    :param grant: :class:`~edge_training.records.DataGrant` of ``grant_data_access``.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :returns: a :class:`~edge_training.records.RunHandle`.
    :raises ConfigurationError: when the code has changed since it was checked.
    :raises ServiceError: when Azure ML refuses the run or cannot be asked.
    """

    template_fields: Sequence[str] = ("experiment", "parameters", "data", "code", "compute", "grant")
    ui_color = "#d2e3fc"

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
        grant: Any,
        parameters: Mapping[str, str | float | bool] | None = None,
        maximum_duration: timedelta = timedelta(hours=6),
        azure_ml_conn_id: str = "azure_ml",
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
        self.grant = grant
        self.parameters = dict(parameters or {})
        self.maximum_duration = maximum_duration
        self.azure_ml_conn_id = azure_ml_conn_id

    def execute(self, context: Context) -> JsonObject:
        """Find out what an earlier try did, and do what is left."""
        ti = context["ti"]
        hook = AzureMLHook(self.azure_ml_conn_id)
        compute = ComputeTarget.from_json(self.compute)
        # Airflow raises max_tries when a person clears the task and never by itself.
        decision = decide(run_key(ti.dag_id, ti.run_id, ti.max_tries), hook.find_run)
        if decision.action is Action.SUBMIT:
            self._submit(hook, decision, compute, ti.dag_id, ti.run_id)
        status = hook.get_run(decision.run_id)
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

    def _submit(
        self, hook: AzureMLHook, decision: Decision, compute: ComputeTarget, dag_id: str, dag_run_id: str
    ) -> None:
        data, code = BlobManifest.from_json(self.data), CodeManifest.from_json(self.code)
        tags = run_lineage(
            site=self.site,
            data=data,
            code=code,
            dag_id=dag_id,
            dag_run_id=dag_run_id,
            run_id=decision.run_id,
            attempt=decision.attempt,
        )
        with staged_source(Path(self.scripts_folder), self.project) as (source, now):
            if now.digest != code.digest:
                raise ConfigurationError(
                    f"The code of project '{self.project}' has changed since check_training_code looked at it ({code.digest} then, "
                    f"{now.digest} now). Clear check_training_code to train the new code."
                )
            self.log.info("Submitting run %s to compute target '%s'.", decision.run_id, compute.name)
            hook.submit(
                run_id=decision.run_id,
                experiment=self.experiment,
                compute=compute.name,
                source_directory=source,
                script=ENTRY_SCRIPT,
                arguments=self._arguments(data),
                python=compute.python,
                tags=tags,
                maximum_seconds=int(self.maximum_duration.total_seconds()),
            )

    def _arguments(self, data: BlobManifest) -> list[str]:
        """Return the runner's arguments; Azure ML stores them, so they name the grant and never hold one."""
        grant = DataGrant.from_json(self.grant)
        if grant.fingerprint != data.fingerprint:
            raise ConfigurationError(
                f"The grant on the VM is for data {grant.fingerprint}, the verified data is {data.fingerprint}. "
                "Clear verify_blob_data together with grant_data_access."
            )
        named = [f"{name}={value}" for name, value in sorted(self.parameters.items())]
        parameters = [word for one in named for word in ("--param", one)]
        return ["--grant", grant.path, "--fingerprint", grant.fingerprint, *parameters]


class PollRunOperator(BaseOperator):
    """Waits until a run has ended, without a worker, and prints its log as it grows.

    :param run: :class:`~edge_training.records.RunHandle` of ``submit_experiment``.
    :param model_file: the file that the script must leave, such as ``model.onnx``.
    :param maximum_duration: after this the run is cancelled and the task fails.
    :param poll_interval: how often to ask for the run's state.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param deferrable: whether to wait in the triggerer; else the task waits itself.
    :returns: a :class:`~edge_training.records.RunResult`.
    :raises RunFailedError: when the run failed, with its own error, or left no model.
    :raises RunCanceledError: when somebody cancelled it.
    :raises RunTimeoutError: when it took too long.
    :raises ServiceError: when Azure ML cannot be asked.
    """

    template_fields: Sequence[str] = ("run", "model_file")
    ui_color = "#d2e3fc"

    def __init__(
        self,
        *,
        run: Any,
        model_file: str,
        maximum_duration: timedelta = timedelta(hours=6),
        poll_interval: timedelta = timedelta(seconds=30),
        azure_ml_conn_id: str = "azure_ml",
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run = run
        self.model_file = model_file
        self.maximum_duration = maximum_duration
        self.poll_interval = poll_interval
        self.azure_ml_conn_id = azure_ml_conn_id
        self.deferrable = (
            conf.getboolean("operators", "default_deferrable", fallback=True) if deferrable is None else deferrable
        )
        self._waiting_for: str | None = None

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - the interface of Airflow
        """Wait here, or hand the waiting over to the triggerer."""
        run = RunHandle.from_json(self.run)
        self.log.info("Waiting for run %s of experiment '%s'. See %s", run.run_id, run.experiment, run.portal_url)
        if self.deferrable:
            self._defer(run)
        return self._wait(run)

    def _defer(self, run: RunHandle) -> NoReturn:
        trigger = RunTrigger(
            run.run_id,
            self.azure_ml_conn_id,
            self.poll_interval.total_seconds(),
            deadline_after(self.maximum_duration),
        )
        self.defer(trigger=trigger, method_name="execute_complete")
        raise AssertionError("defer() returned")

    def _wait(self, run: RunHandle) -> JsonObject:
        hook = AzureMLHook(self.azure_ml_conn_id)
        self._waiting_for = run.run_id
        watcher = RunWatcher(hook, run.run_id, self.log)
        deadline = deadline_after(self.maximum_duration)
        while True:
            timed_out = time.time() > deadline
            status = watcher.look()
            if phase_of(status.state) is not Phase.ACTIVE:
                self._waiting_for = None
                return self._finish(run, status, hook)
            if timed_out:
                hook.cancel(run.run_id)
                raise timeout_error(status, self.maximum_duration)
            time.sleep(self.poll_interval.total_seconds())

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> JsonObject:  # noqa: ARG002
        """Go on after the triggerer has seen the run's end.

        :param context: not used.
        :param event: what :class:`~edge_training.triggers.run.RunTrigger` sent; anything else is an error.
        """
        run = RunHandle.from_json(self.run)
        if not event or event.get("run_id") != run.run_id:
            raise RunFailedError(
                f"Waiting for run {run.run_id} ended with an event that is not its own: {event!r}. Clear this task to look again.",
                run_id=run.run_id,
            )
        if "error" in event:
            raise ServiceError(str(event["error"]), service="Azure ML", retryable=bool(event.get("retryable", True)))
        status = RunStatus.from_json(event.get("status"))
        if event.get("timed_out"):
            raise timeout_error(status, self.maximum_duration)
        return self._finish(run, status, AzureMLHook(self.azure_ml_conn_id))

    def _finish(self, run: RunHandle, status: RunStatus, hook: AzureMLHook) -> JsonObject:
        error = error_of(status)
        if error is not None:
            raise error
        if phase_of(status.state) is not Phase.COMPLETED:
            raise RunFailedError(
                f"Run {run.run_id} is still {status.state}. Clear this task to look again.", run_id=run.run_id
            )
        artifacts = hook.artifacts(run.run_id)
        if f"outputs/{self.model_file}" not in artifacts:
            raise RunFailedError(
                f"Run {run.run_id} completed, but left no {self.model_file}: its files are {', '.join(artifacts) or 'none'}. "
                f"The script must call edge_context.save_model(..., name={self.model_file!r}). See {run.portal_url}",
                run_id=run.run_id,
            )
        result = RunResult(
            run_id=run.run_id,
            experiment=run.experiment,
            state=status.state,
            metrics=hook.metrics(run.run_id),
            artifacts=artifacts,
            seconds=seconds_between(status.started, status.ended),
            portal_url=run.portal_url,
        )
        self.log.info("Run %s completed in %.1f s.", run.run_id, result.seconds)
        for name, value in sorted(result.metrics.items()):
            self.log.info("  %-24s %.6g", name, value)
        return result.to_json()

    def on_kill(self) -> None:
        """Cancel the run when the task is ended by a person while it waits itself."""
        if self._waiting_for is not None:
            self.log.info("The task was ended: cancelling run %s.", self._waiting_for)
            AzureMLHook(self.azure_ml_conn_id).cancel(self._waiting_for)
