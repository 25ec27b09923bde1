"""Proves, after a run, that nothing left the premises but what was let out, and signs a receipt for it."""

from __future__ import annotations

import base64
import binascii
import shlex
import time
import zlib
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training import grants
from edge_training.exceptions import ResidencyError, RunFailedError
from edge_training.hooks.azure_ml_evidence import AzureMLEvidenceHook
from edge_training.lineage import RECEIPT, run_arguments, run_lineage
from edge_training.records import BlobManifest, CodeManifest, ResidencyReceipt, RunResult
from edge_training.residency.audit import Audit, Expected, audit, is_looked_into
from edge_training.residency.gate_record import parse_record
from edge_training.residency.ledger import issue, receipts_of
from edge_training.residency.platform_rules import PLATFORM_FILES, PlatformRules
from edge_training.residency.receipt import public_key_text
from edge_training.residency.statement import statement, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from edge_training.hooks.training_vm import TrainingVMHook
    from edge_training.records import JsonObject
    from edge_training.residency.gate_record import GateRecord

RECORD_FOLDER = ".edge-training/records"
LARGEST_RECORD_BYTES = 64 * 1024 * 1024
SETTLE_PAUSE_SECONDS = 2.0


class AuditEgressOperator(BaseOperator):
    """Asks Azure ML for all that it holds for a run and compares it with what was submitted and what the gate let out.

    The gate's record is fetched from the VM over SSH: the copy in Azure ML is one of the things that are compared. What came of it is
    signed as a receipt, chained to the site's receipt before it, and stored on premises; its digest is put on the run. Any difference
    ends the task with a table of all of them, after the receipt was stored; the model is not registered.

    :param site: the site's name.
    :param data: :class:`~edge_training.records.BlobManifest` of ``verify_blob_data``.
    :param code: :class:`~edge_training.records.CodeManifest` of ``check_training_code``.
    :param result: :class:`~edge_training.records.RunResult` of ``poll_run``.
    :param parameters: what the script was given.
    :param container: the blob container for receipts.
    :param delete_foreign_artifacts: whether files that nobody let out are deleted from the run.
    :param platform_files: patterns of further files that the platform writes.
    :param settle: how long things that are missing may still arrive; what is too much is never waited for.
    :param key_conn_id: Airflow connection of the key that signs receipts.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param training_vm_conn_id: Airflow connection of the VM.
    :param blob_conn_id: Airflow connection of the blob storage.
    :returns: a :class:`~edge_training.records.ResidencyReceipt`.
    :raises ResidencyError: when anything is not accounted for, or the record or the chain of receipts was tampered with.
    :raises ServiceError: when Azure ML or the blob storage cannot be asked.
    :raises ComputeError: when the VM cannot be asked.
    """

    template_fields: Sequence[str] = ("data", "code", "result", "parameters")
    ui_color = "#fde7e9"

    def __init__(
        self,
        *,
        site: str,
        data: Any,
        code: Any,
        result: Any,
        parameters: Mapping[str, str | float | bool] | None = None,
        container: str = "residency-receipts",
        delete_foreign_artifacts: bool = False,
        platform_files: Sequence[str] = (),
        settle: timedelta = timedelta(seconds=30),
        key_conn_id: str = "residency_key",
        azure_ml_conn_id: str = "azure_ml",
        training_vm_conn_id: str = "training_vm",
        blob_conn_id: str = "stack_hub_blob",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.data = data
        self.code = code
        self.result = result
        self.parameters = dict(parameters or {})
        self.container = container
        self.delete_foreign_artifacts = delete_foreign_artifacts
        self.platform_files = tuple(platform_files)
        self.settle = settle
        self.key_conn_id = key_conn_id
        self.azure_ml_conn_id = azure_ml_conn_id
        self.training_vm_conn_id = training_vm_conn_id
        self.blob_conn_id = blob_conn_id

    def execute(self, context: Context) -> JsonObject:
        """Collect, compare, sign, store, tag; then say what was found."""
        from edge_training.hooks.receipt_store import ReceiptStore
        from edge_training.hooks.residency_key import ResidencyKeyHook

        result, data = RunResult.from_json(self.result), BlobManifest.from_json(self.data)
        key = ResidencyKeyHook(self.key_conn_id).key()
        store = ReceiptStore(self.container, self.blob_conn_id)
        earlier = receipts_of(store, self.site, result.run_id, public_key_text(key))
        expected = self._expected(context, result, data, frozenset(receipt.digest for receipt in earlier))
        hook = AzureMLEvidenceHook(self.azure_ml_conn_id)
        found = self._compare(hook, expected)
        facts = statement(
            site=self.site,
            run=self._run(context, result),
            data=data,
            code=expected.code,
            record=expected.record,
            audit=found,
        )
        signed = issue(store, facts, key, grants.time_text(datetime.now(UTC)))
        hook.tag_run(result.run_id, {RECEIPT: signed.digest})
        name = store.name_of(self.site, signed.sequence)
        self.log.info("Receipt %s of site '%s' is %s in %s.", signed.sequence, self.site, signed.digest, name)
        self._judge(hook, result.run_id, found, expected.record)
        return ResidencyReceipt(
            run_id=result.run_id,
            digest=signed.digest,
            container=self.container,
            name=name,
            sequence=signed.sequence,
            items=len(facts["items"]),
            withheld=len(facts["withheld"]),
            bytes_out=found.bytes_out["total"],
            models={item.name: item.sha256 for item in expected.record.passed("model")},
        ).to_json()

    def _expected(self, context: Context, result: RunResult, data: BlobManifest, receipts: frozenset[str]) -> Expected:
        """Put together what may be there: from the tasks before, and from the gate's record on the VM."""
        from edge_training.hooks.training_vm import TrainingVMHook

        ti, code = context["ti"], CodeManifest.from_json(self.code)
        with TrainingVMHook(self.training_vm_conn_id) as vm:
            home = vm.home()
            content = read_record(vm, home, result.run_id)
        record = parse_record(content)
        if record.fingerprint != data.fingerprint:
            raise ResidencyError(
                f"Run {result.run_id} was trained on data {record.fingerprint}, verified was {data.fingerprint}. Nothing is registered."
            )
        tags = run_lineage(
            site=self.site,
            data=data,
            code=code,
            dag_id=ti.dag_id,
            dag_run_id=ti.run_id,
            run_id=result.run_id,
            attempt=_attempt(result.run_id),
        )
        path = grants.grant_path(home, grants.grant_name(ti.dag_id, ti.run_id))
        return Expected(
            run_id=result.run_id,
            code=code,
            record=record,
            record_content=content,
            tags=tags,
            arguments=tuple(run_arguments(path, data.fingerprint, self.parameters)),
            receipts=receipts,
            rules=PlatformRules((*PLATFORM_FILES, *self.platform_files)),
        )

    def _compare(self, hook: AzureMLEvidenceHook, expected: Expected) -> Audit:
        """Compare, again for a while when things are only missing: the service may not show everything at once."""
        deadline = time.monotonic() + self.settle.total_seconds()
        fetch = partial(is_looked_into, record=expected.record, rules=expected.rules)
        while True:
            found = audit(expected, hook.evidence(expected.run_id, fetch))
            only_missing = not found.is_clean and all(one.found == "missing" for one in found.differences)
            if not only_missing or time.monotonic() > deadline:
                return found
            self.log.info("%d things are not there yet; looking again.", len(found.differences))
            time.sleep(SETTLE_PAUSE_SECONDS)

    def _run(self, context: Context, result: RunResult) -> dict[str, Any]:
        ti = context["ti"]
        return {
            "id": result.run_id,
            "experiment": result.experiment,
            "state": result.state,
            "attempt": _attempt(result.run_id),
            "dag_id": ti.dag_id,
            "dag_run_id": ti.run_id,
        }

    def _judge(self, hook: AzureMLEvidenceHook, run_id: str, found: Audit, record: GateRecord) -> None:
        """Say what was found, and fail when anything is not accounted for."""
        self.log.info("Compared for run %s: %s.", run_id, _listed(found.compared))
        self.log.info("Bytes that left: %s.", _listed(found.bytes_out))
        for item in record.held_back:
            self.log.warning("Held back: a %s: %s", item.kind, item.reason)
        if found.is_clean:
            return
        lines = table(found)
        for line in lines:
            self.log.error("%s", line)
        deleted = self._delete(hook, run_id, found)
        raise ResidencyError(
            f"Azure ML holds {len(found.differences)} things for run {run_id} that are not accounted for; the model is not registered."
            f"{deleted} The receipt has all of them. Find out where they come from before you train again.\n"
            + "\n".join(lines)
        )

    def _delete(self, hook: AzureMLEvidenceHook, run_id: str, found: Audit) -> str:
        if not found.foreign or not self.delete_foreign_artifacts:
            return ""
        for name in found.foreign:
            hook.delete_artifact(run_id, name)
        return f" {len(found.foreign)} files were deleted from the run, as the site asks."


def read_record(vm: TrainingVMHook, home: str, run_id: str) -> bytes:
    """Return the gate's record of a run as it lies on the VM.

    :param vm: the training VM.
    :param home: the account's home directory.
    :param run_id: the run's id.
    :raises ResidencyError: when there is none, or it is too large.
    :raises ComputeError: when the VM cannot be asked.
    """
    path = f"{home.rstrip('/')}/{RECORD_FOLDER}/{run_id}.json"
    # Packed, because a record names thousands of items, and as text, because that is what a command prints.
    result = vm.run(f"test -f {shlex.quote(path)} || exit 66; gzip -c {shlex.quote(path)} | base64 -w0")
    if result.status:
        raise ResidencyError(
            f"The VM has no record of run {run_id} ({path}): without it nobody knows what was let out, so nothing is registered. The "
            "runner writes it at the end of each run; it is missing when the run was killed or somebody removed it."
        )
    try:
        unpacker = zlib.decompressobj(wbits=31)
        content = unpacker.decompress(base64.b64decode(result.stdout, validate=True), LARGEST_RECORD_BYTES)
    except (zlib.error, binascii.Error):
        content = b""
    if not content or unpacker.unconsumed_tail:
        raise ResidencyError(f"The record of run {run_id} on the VM ({path}) cannot be read, or is too large.")
    return content


def _attempt(run_id: str) -> int:
    """Return the attempt that a run's id ends with."""
    text = run_id.rpartition("-")[2]
    if not text.isdigit():
        raise RunFailedError(f"Run {run_id} was not submitted by this pipeline: its id has no attempt.", run_id=run_id)
    return int(text)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
