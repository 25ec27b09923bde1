"""Proves, after a run, that nothing left the premises but what was let out, and signs a receipt for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from edge_training.exceptions import ResidencyError, ServiceError
from edge_training.hooks.azure_ml_evidence import AzureMLEvidenceHook
from edge_training.lifecycle import Phase, phase_of
from edge_training.operators.auditing import AuditingOperator
from edge_training.operators.run_audit import SETTLE_PAUSE_SECONDS, EndedRun
from edge_training.records import BlobManifest, CodeManifest, ResidencyReceipt, RunResult
from edge_training.residency.submitted import Submitted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow.sdk import Context

    from edge_training.operators.run_audit import Audited, RunAuditor
    from edge_training.records import JsonObject


class AuditEgressOperator(AuditingOperator):
    """Asks Azure ML for all that it holds for each run of a DAG run and compares it with what was submitted and what the gate let out.

    Runs that failed or were cancelled are audited too, for their logs and metrics have left: the task runs whatever became of the one that
    waits for runs, and is skipped when no run was ever submitted. Each run gets one receipt; one that has its receipt is not looked at
    again, but for the run whose model is to be registered.

    The gate's record is fetched from the VM over SSH: the copy in Azure ML is one of the things that are compared. What came of it is
    signed as a receipt, chained to the site's receipt before it, and stored on premises; its digest is put on the run. Any difference
    ends the task with a table of all of them, after the receipt was stored; the model is not registered.

    :param data: :class:`~edge_training.records.BlobManifest` of ``verify_blob_data``.
    :param code: :class:`~edge_training.records.CodeManifest` of ``check_training_code``.
    :param result: :class:`~edge_training.records.RunResult` of ``poll_run``, or ``None`` when it failed.
    :param options: see :class:`~edge_training.operators.auditing.AuditingOperator`.
    :returns: the :class:`~edge_training.records.ResidencyReceipt` of the run that completed, or nothing when none did.
    :raises ResidencyError: when anything is not accounted for, or the record or the chain of receipts was tampered with.
    :raises ServiceError: when Azure ML or the blob storage cannot be asked.
    :raises ComputeError: when the VM cannot be asked.
    """

    template_fields: Sequence[str] = ("data", "code", "result", "parameters")

    def __init__(self, *, data: Any, code: Any, result: Any, **options: Any) -> None:
        super().__init__(**options)
        self.data = data
        self.code = code
        self.result = result

    def execute(self, context: Context) -> JsonObject | None:
        """Audit every run; then fail when anything of any of them is not accounted for."""
        result = None if self.result is None else RunResult.from_json(self.result)
        hook = AzureMLEvidenceHook(self.azure_ml_conn_id)
        ti = context["ti"]
        dag_run = (ti.dag_id, ti.run_id)
        runs = self._runs(hook, dag_run, result)
        if not runs:
            raise AirflowSkipException("No run of this DAG run was submitted, so there is nothing to audit.")
        data, code = BlobManifest.from_json(self.data), CodeManifest.from_json(self.code)
        verified = Submitted(data, code, self.parameters, dag_run)
        with self._auditor(hook, verified) as auditor:
            faults = list(self._audit_others(auditor, runs, result, verified))
            # What a model comes of is what this DAG run has verified, and nothing else.
            audited = None if result is None else auditor.audit(_ended(result), verified)
        if audited is not None and audited.fault:
            faults.append(audited.fault)
        if faults:
            raise ResidencyError("\n".join(faults))
        return None if audited is None else self._receipt(audited).to_json()

    def _runs(self, hook: AzureMLEvidenceHook, dag_run: tuple[str, str], result: RunResult | None) -> list[EndedRun]:
        """Return all runs of the DAG run, oldest first, when all have ended.

        The task that waited for them is over, so one that still goes on is cancelled: it was marked failed, say, while no triggerer ran.
        """
        deadline = time.monotonic() + self.settle.total_seconds()
        cancelled: set[str] = set()
        while True:
            found = hook.runs_of_dag_run(*dag_run, self.experiment)
            active = [run.status for run in found if phase_of(run.status.state) is Phase.ACTIVE]
            if not active:
                break
            for run in active:
                if run.run_id not in cancelled:
                    self.log.warning(
                        "Run %s is %s, though nobody waits for it any more: cancelling it.", run.run_id, run.state
                    )
                    hook.cancel(run.run_id)
                    cancelled.add(run.run_id)
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"Run {active[0].run_id} is still {active[0].state}, though it was cancelled: it can be audited when it has ended. "
                    "The next try looks again; see in Azure ML Studio why it goes on.",
                    service="Azure ML",
                    retryable=True,
                )
            time.sleep(SETTLE_PAUSE_SECONDS)
        runs = [EndedRun(run.status.run_id, run.experiment, run.status.state) for run in found]
        known = {run.run_id for run in runs}
        return runs if result is None or result.run_id in known else [*runs, _ended(result)]

    def _audit_others(
        self, auditor: RunAuditor, runs: Sequence[EndedRun], result: RunResult | None, verified: Submitted
    ) -> Iterator[str]:
        """Audit the runs that no model comes of, but for those that were, and yield what to fail with.

        They may have been submitted before a person cleared the tasks that verify, with other data or code than are known now.
        """
        for run in runs:
            if result is not None and run.run_id == result.run_id:
                continue
            if earlier := auditor.receipts(run.run_id):
                verdict = earlier[0].body["audit"]["result"]
                self.log.info("Run %s (%s) has its receipt %s: %s.", run.run_id, run.state, earlier[0].digest, verdict)
                continue
            try:
                fault = auditor.audit(run, auditor.submitted(run.run_id) or verified).fault
            except ResidencyError as error:
                fault = str(error)
            if fault:
                yield fault

    def _receipt(self, audited: Audited) -> ResidencyReceipt:
        body = audited.receipt.body
        return ResidencyReceipt(
            run_id=str(body["run"]["id"]),
            digest=audited.receipt.digest,
            container=self.container,
            name=audited.name,
            sequence=audited.receipt.sequence,
            items=len(body["items"]),
            withheld=len(body["withheld"]),
            bytes_out=audited.found.bytes_out["total"],
            models={item.name: item.sha256 for item in audited.record.passed("model")},
        )


def _ended(result: RunResult) -> EndedRun:
    return EndedRun(result.run_id, result.experiment, result.state)
