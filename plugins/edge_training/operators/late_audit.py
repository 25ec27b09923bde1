"""Audits runs that no task of their own DAG run has audited: what they sent has left all the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

from edge_training.airflow_state import is_dag_run_over
from edge_training.exceptions import ResidencyError
from edge_training.hooks.azure_ml_evidence import AzureMLEvidenceHook
from edge_training.lineage import DAG_ID, DAG_RUN_ID, RECEIPT, SITE
from edge_training.operators.auditing import AuditingOperator
from edge_training.operators.run_audit import EndedRun, lineage_of
from edge_training.operators.submission import PARAMETERS_KEY
from edge_training.records import BlobManifest, CodeManifest
from edge_training.residency.submitted import Submitted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow.sdk import Context

    from edge_training.hooks.azure_ml_records import ListedRun
    from edge_training.operators.run_audit import RunAuditor
    from edge_training.records import JsonObject


class AuditLeftRunsOperator(AuditingOperator):
    """Audits the runs of a site that have no receipt although their DAG run is over.

    ``audit_egress`` audits the runs of its own DAG run. It does not run when a person ends the whole DAG run, and it may give up, say while
    the blob storage is down. Every run gets its receipt all the same: this task finds those without one by their tags, reads what they were
    submitted with, which was written down then, and audits them as that task does.

    A run of which that is gone, from the container of receipts and from Airflow, can be compared with nothing; it is named in the log while
    it is younger than ``window``.

    :param data_task_id: the task that returned the :class:`~edge_training.records.BlobManifest`.
    :param code_task_id: the task that returned the :class:`~edge_training.records.CodeManifest`.
    :param submission_task_id: the task that submitted the runs, and said what it gave them.
    :param window: how long after its submission a run is looked after.
    :param settle: how long things that are missing may still arrive; the run has ended a while ago.
    :param options: see :class:`~edge_training.operators.auditing.AuditingOperator`.
    :returns: ids of the runs that were audited, and of those that could not be.
    :raises ResidencyError: when anything is not accounted for; every run has its receipt by then.
    :raises ServiceError: when Azure ML or the blob storage cannot be asked.
    :raises ComputeError: when the VM cannot be asked.
    """

    def __init__(
        self,
        *,
        data_task_id: str = "verify_blob_data",
        code_task_id: str = "check_training_code",
        submission_task_id: str = "submit_experiment",
        window: timedelta = timedelta(days=7),
        settle: timedelta = timedelta(0),
        **options: Any,
    ) -> None:
        super().__init__(settle=settle, **options)
        self.data_task_id = data_task_id
        self.code_task_id = code_task_id
        self.submission_task_id = submission_task_id
        self.window = window

    def execute(self, context: Context) -> JsonObject:
        """Audit what has no receipt; then fail when anything is not accounted for."""
        hook = AzureMLEvidenceHook(self.azure_ml_conn_id)
        audited: list[str] = []
        lost: list[str] = []
        faults = list(self._complete_lineage(hook))
        for dag_run, runs in by_dag_run(self._left(hook)):
            ids = [run.status.run_id for run in runs]
            self.log.info("DAG run %s is over, and its runs %s have no receipt.", dag_run[1], ", ".join(ids))
            with self._auditor(hook, self._verified(context, dag_run)) as auditor:
                for run in runs:
                    done = self._audit(auditor, run)
                    (lost if done is None else audited).append(run.status.run_id)
                    faults += [done] if done else []
        if not audited and not lost:
            self.log.info("Every run of site '%s' whose DAG run is over has its receipt.", self.site)
        if faults:
            raise ResidencyError("\n".join(faults))
        return {"audited": audited, "not_audited": lost}

    def _complete_lineage(self, hook: AzureMLEvidenceHook) -> Iterator[str]:
        """Write the lineage of runs whose worker was killed before it could, and whom no task has claimed since; yield what to fail with.

        The SDK sends a run and its tags in two requests; without them nobody would find the run. It was written down before it was sent.
        """
        from edge_training.hooks.receipt_store import ReceiptStore

        store, site = ReceiptStore(self.container, self.blob_conn_id), {SITE: self.site}
        # In this order, so that one that ends in between is among the later ones.
        told = {run.status.run_id for run in hook.runs_tagged(site, self.experiment)}
        told |= {run.status.run_id for run in hook.ended_runs(site, self.experiment)}
        for run_id in store.notes(self.site, datetime.now(UTC) - self.window):
            if run_id in told or hook.find_run(run_id) is None or SITE in hook.look_up(run_id).tags:
                continue
            note = store.noted(self.site, run_id) or b""
            try:
                lineage = lineage_of(self.site, run_id, Submitted.from_bytes(note, run_id))
            except ResidencyError as error:
                yield str(error)
                continue
            self.log.warning(
                "Run %s has no lineage: the task that submitted it was killed before it could write it. Writing it now.",
                run_id,
            )
            hook.tag_run(run_id, lineage)

    def _left(self, hook: AzureMLEvidenceHook) -> list[ListedRun]:
        since = (datetime.now(UTC) - self.window).isoformat()
        return [
            run
            for run in hook.ended_runs({SITE: self.site}, self.experiment)
            if RECEIPT not in run.tags and run.created >= since and DAG_ID in run.tags and DAG_RUN_ID in run.tags
        ]

    def _verified(self, context: Context, dag_run: tuple[str, str]) -> Submitted | None:
        """Return what a DAG run had verified before it submitted its runs, or nothing when Airflow does not know it any more."""
        data, code = (self._told(context, dag_run, task_id) for task_id in (self.data_task_id, self.code_task_id))
        if not data or not code:
            return None
        parameters = self._told(context, dag_run, self.submission_task_id, PARAMETERS_KEY) or self.parameters
        return Submitted(BlobManifest.from_json(data), CodeManifest.from_json(code), parameters, dag_run)

    @staticmethod
    def _told(context: Context, dag_run: tuple[str, str], task_id: str, key: str = "return_value") -> Any:
        dag_id, run_id = dag_run
        return context["ti"].xcom_pull(task_ids=task_id, dag_id=dag_id, run_id=run_id, key=key, map_indexes=None)

    def _audit(self, auditor: RunAuditor, run: ListedRun) -> str | None:
        """Audit a run, and return what to fail with, or ``None`` when it can be compared with nothing."""
        run_id = run.status.run_id
        try:
            submitted = auditor.submitted(run_id)
            if submitted is None:
                self.log.warning(
                    "Run %s has no receipt, and neither the container of receipts nor Airflow knows what it was submitted with: nobody "
                    "can say any more whether what it sent is all accounted for. Look at it in Azure ML Studio.",
                    run_id,
                )
                return None
            return auditor.audit(EndedRun(run_id, run.experiment, run.status.state), submitted).fault
        except ResidencyError as error:
            return str(error)


def by_dag_run(
    runs: Iterable[ListedRun], is_over: Callable[[str, str], bool] = is_dag_run_over
) -> Iterator[tuple[tuple[str, str], list[ListedRun]]]:
    """Yield each DAG run that is over, with its runs.

    :param runs: runs that carry the tags of their DAG runs.
    :param is_over: tells of a DAG and a DAG run whether it is over, or does not exist any more.
    """

    def dag_run(run: ListedRun) -> tuple[str, str]:
        return run.tags[DAG_ID], run.tags[DAG_RUN_ID]

    for which, members in groupby(sorted(runs, key=dag_run), key=dag_run):
        if is_over(*which):
            yield which, list(members)
