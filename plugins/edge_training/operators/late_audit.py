"""Audits runs that no task of their own DAG run has audited: what they sent has left all the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

from edge_training.airflow_state import is_dag_run_over
from edge_training.exceptions import ResidencyError
from edge_training.hooks.azure_ml_evidence import AzureMLEvidenceHook
from edge_training.lineage import DAG_ID, DAG_RUN_ID, RECEIPT
from edge_training.operators.auditing import AuditingOperator
from edge_training.operators.run_audit import EndedRun
from edge_training.operators.submission import PARAMETERS_KEY
from edge_training.records import BlobManifest, CodeManifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airflow.sdk import Context

    from edge_training.hooks.azure_ml_records import ListedRun
    from edge_training.records import JsonObject


@dataclass(frozen=True)
class Verified:
    """What a DAG run had verified, and what it gave to its runs.

    :param data: the blobs.
    :param code: the files of the snapshot.
    :param parameters: what the script was given.
    """

    data: BlobManifest
    code: CodeManifest
    parameters: Mapping[str, Any]


class AuditLeftRunsOperator(AuditingOperator):
    """Audits the runs of a site that have no receipt although their DAG run is over.

    ``audit_egress`` audits the runs of its own DAG run. It does not run when a person ends the whole DAG run, and it may give up, say while
    the blob storage is down. Every run gets its receipt all the same: this task finds those without one by their tags, fetches from Airflow
    what their DAG run had verified, and audits them as that task does.

    A run whose DAG run was deleted from Airflow can be compared with nothing; it is named in the log while it is younger than ``window``.

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
        faults: list[str] = []
        for dag_run, runs in by_dag_run(self._left(hook)):
            verified = self._verified(context, dag_run)
            ids = [run.status.run_id for run in runs]
            if verified is None:
                self.log.warning(
                    "Runs %s have no receipt, and Airflow has forgotten what their DAG run %s had verified: nobody can say any more "
                    "whether what they sent is all accounted for. Look at them in Azure ML Studio.",
                    ", ".join(ids),
                    dag_run[1],
                )
                lost += ids
                continue
            self.log.info("DAG run %s is over, and its runs %s have no receipt.", dag_run[1], ", ".join(ids))
            faults += self._audit(hook, dag_run, verified, runs)
            audited += ids
        if not audited and not lost:
            self.log.info("Every run of site '%s' whose DAG run is over has its receipt.", self.site)
        if faults:
            raise ResidencyError("\n".join(faults))
        return {"audited": audited, "not_audited": lost}

    def _left(self, hook: AzureMLEvidenceHook) -> list[ListedRun]:
        since = (datetime.now(UTC) - self.window).isoformat()
        return [
            run
            for run in hook.ended_runs({"site": self.site}, self.experiment)
            if RECEIPT not in run.tags and run.created >= since and DAG_ID in run.tags and DAG_RUN_ID in run.tags
        ]

    def _verified(self, context: Context, dag_run: tuple[str, str]) -> Verified | None:
        """Return what a DAG run had verified before it submitted its runs, or nothing when Airflow does not know it any more."""
        data, code = (self._told(context, dag_run, task_id) for task_id in (self.data_task_id, self.code_task_id))
        if not data or not code:
            return None
        parameters = self._told(context, dag_run, self.submission_task_id, PARAMETERS_KEY) or self.parameters
        return Verified(BlobManifest.from_json(data), CodeManifest.from_json(code), parameters)

    @staticmethod
    def _told(context: Context, dag_run: tuple[str, str], task_id: str, key: str = "return_value") -> Any:
        dag_id, run_id = dag_run
        return context["ti"].xcom_pull(task_ids=task_id, dag_id=dag_id, run_id=run_id, key=key, map_indexes=None)

    def _audit(
        self,
        hook: AzureMLEvidenceHook,
        dag_run: tuple[str, str],
        verified: Verified,
        runs: Iterable[ListedRun],
    ) -> Iterator[str]:
        """Audit the runs of one DAG run, and yield what to fail with."""
        with self._auditor(hook, dag_run, verified.data, verified.code, verified.parameters) as auditor:
            for run in runs:
                try:
                    fault = auditor.audit(EndedRun(run.status.run_id, run.experiment, run.status.state)).fault
                except ResidencyError as error:
                    fault = str(error)
                if fault:
                    yield fault


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
