"""Waits for a training run."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from edge_training.exceptions import RunFailedError, ServiceError
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.lifecycle import (
    Action,
    Phase,
    decide,
    error_of,
    phase_of,
    remember,
    seconds_between,
    timeout_error,
    wait_for,
)
from edge_training.links import RunLink
from edge_training.operators.submission import TrainingRunOperator
from edge_training.progress import RUNNER_RECORD, duration, history_from, phase_table
from edge_training.records import RunHandle, RunResult, RunStatus
from edge_training.triggers.look import SharedLook, Sighting
from edge_training.triggers.run import RunTrigger, deadline_after
from edge_training.triggers.watcher import RunWatcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from edge_training.progress import History
    from edge_training.records import JsonObject

STATE_KEY = "waits_for"


class PollRunOperator(TrainingRunOperator):
    """Waits until a run has ended, without a worker, and prints its log as it grows.

    After a run that failed, a retry submits the next attempt itself, with a grant of its own; cleared alone, the task trains anew.

    :param run: :class:`~edge_training.records.RunHandle` of ``submit_experiment``.
    :param model_file: the file that the script must leave, such as ``model.onnx``.
    :param poll_interval: how often to ask for the run's state.
    :param deferrable: whether to wait in the triggerer, whatever Airflow's ``default_deferrable`` says: a training run takes hours; else
        the task waits itself.
    :param kwargs: see :class:`~edge_training.operators.submission.TrainingRunOperator`.
    :returns: a :class:`~edge_training.records.RunResult`.
    :raises RunFailedError: when the run failed, with its own error, or left no model.
    :raises RunCanceledError: when somebody cancelled it.
    :raises RunTimeoutError: when it took too long.
    :raises ServiceError: when Azure ML cannot be asked.
    """

    template_fields: Sequence[str] = (*TrainingRunOperator.template_fields, "run", "model_file")

    def __init__(
        self,
        *,
        run: Any,
        model_file: str,
        poll_interval: timedelta = timedelta(seconds=30),
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run = run
        self.model_file = model_file
        self.poll_interval = poll_interval
        self.deferrable = deferrable

    def execute(self, context: Context) -> JsonObject:
        """Find the run, submit the next attempt when that is due, then wait here or hand the waiting over to the triggerer."""
        hook = AzureMLHook(self.azure_ml_conn_id)
        run = self._find(context, hook)
        self.log.info("Waiting for run %s of experiment '%s'. See %s", run.run_id, run.experiment, run.portal_url)
        if not self.deferrable:
            return self._wait(run, hook)
        RunLink().show(context, run.portal_url)
        raise TaskDeferred(
            trigger=RunTrigger(
                run.run_id,
                self.azure_ml_conn_id,
                self.poll_interval.total_seconds(),
                deadline_after(self.maximum_duration),
                run.experiment,
            ),
            method_name="execute_complete",
            kwargs={"run": run.to_json()},
        )

    def _find(self, context: Context, hook: AzureMLHook) -> RunHandle:
        """Return the run to wait for.

        :raises RunFailedError: when it has failed and this is the first try.
        """
        ti, store = context["ti"], context["task_state_store"]
        given = RunHandle.from_json(self.run)
        remembered = store.get(STATE_KEY)
        wait = wait_for(
            given.run_id, remembered if isinstance(remembered, dict) else {}, ti.max_tries, ti.dag_id, ti.run_id
        )
        if wait.superseded:
            self._cancel_superseded(hook, wait.superseded)
        store.set(STATE_KEY, remember(given.run_id, wait, ti.max_tries), retention=NEVER_EXPIRE)
        decision = decide(wait.key, hook.find_run, retry=ti.try_number > 1)
        if decision.action is Action.SUBMIT:
            self._submit(hook, decision, (ti.dag_id, ti.run_id), None)
        self._to_cancel = decision.run_id
        status = self._look_up(hook, decision, (ti.dag_id, ti.run_id))
        return RunHandle(
            run_id=decision.run_id,
            experiment=given.experiment,
            compute=given.compute,
            attempt=decision.attempt,
            decision=decision.action.value,
            portal_url=status.portal_url,
        )

    def _wait(self, run: RunHandle, hook: AzureMLHook) -> JsonObject:
        look = SharedLook(hook, run.experiment)
        watcher = RunWatcher(hook, run.run_id, self.log)
        deadline = deadline_after(self.maximum_duration)
        while True:
            timed_out = time.time() > deadline
            seen = look.look([run.run_id])[run.run_id]
            if not isinstance(seen, Sighting):
                raise seen
            status = seen.run.status
            watcher.see(status, seen.ahead, seen.run.compute)
            if phase_of(status.state) is not Phase.ACTIVE:
                self._to_cancel = None
                return self._finish(run, status, hook, watcher.history)
            if timed_out:
                hook.cancel(run.run_id)
                raise timeout_error(status, self.maximum_duration)
            time.sleep(self.poll_interval.total_seconds())

    def execute_complete(
        self,
        context: Context,  # noqa: ARG002 - the interface of Airflow
        event: Mapping[str, Any] | None = None,
        run: JsonObject | None = None,
    ) -> JsonObject:
        """Go on after the triggerer has seen the run's end.

        :param context: not used.
        :param event: what :class:`~edge_training.triggers.run.RunTrigger` sent; anything else is an error.
        :param run: the run that was waited for.
        """
        waited = RunHandle.from_json(run)
        if not event or event.get("run_id") != waited.run_id:
            raise RunFailedError(
                f"Waiting for run {waited.run_id} ended with an event that is not its own: {event!r}. Clear this task to look again.",
                run_id=waited.run_id,
                retryable=True,
            )
        if "error" in event:
            raise ServiceError(str(event["error"]), service="Azure ML", retryable=bool(event.get("retryable", True)))
        status = RunStatus.from_json(event.get("status"))
        if event.get("timed_out"):
            raise timeout_error(status, self.maximum_duration)
        return self._finish(waited, status, AzureMLHook(self.azure_ml_conn_id), history_from(event.get("states")))

    def _finish(self, run: RunHandle, status: RunStatus, hook: AzureMLHook, history: History) -> JsonObject:
        error = error_of(status, self.maximum_duration)
        if error is not None:
            raise error
        if phase_of(status.state) is not Phase.COMPLETED:
            raise RunFailedError(
                f"Run {run.run_id} is still {status.state}, although its end was seen; the next try looks again.",
                run_id=run.run_id,
                retryable=True,
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
        self._say_phases(history, status, hook, has_record=RUNNER_RECORD in artifacts)
        return result.to_json()

    def _say_phases(self, history: History, status: RunStatus, hook: AzureMLHook, *, has_record: bool) -> None:
        """Print how long each phase took; it is for people, so what cannot be read is left out."""
        try:
            created = hook.look_up(status.run_id).created
            record = hook.read_json(status.run_id, RUNNER_RECORD) if has_record else {}
        except ServiceError as error:
            self.log.info("How long the phases of run %s took cannot be read now. %s", status.run_id, error)
            return
        self.log.info("How long it took:")
        for name, seconds in phase_table(history, created, status, record):
            self.log.info("  %-24s %10s", name, duration(seconds))
