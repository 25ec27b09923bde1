"""The audit of one run: what may be there, what is there, the receipt, and the verdict."""

from __future__ import annotations

import base64
import binascii
import shlex
import time
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from edge_training import grants
from edge_training.exceptions import ResidencyError, RunFailedError
from edge_training.lineage import RECEIPT, run_arguments, run_lineage
from edge_training.residency.audit import COMPLETED, MISSING, Audit, Expected, audit, is_looked_into
from edge_training.residency.gate_record import no_record, parse_record
from edge_training.residency.ledger import issue, receipts_of
from edge_training.residency.platform_rules import PLATFORM_FILES, PlatformRules
from edge_training.residency.receipt import public_key_text
from edge_training.residency.statement import statement, table
from edge_training.residency.submitted import Submitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk.types import Logger
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from edge_training.hooks.azure_ml_evidence import AzureMLEvidenceHook
    from edge_training.hooks.receipt_store import ReceiptStore
    from edge_training.hooks.training_vm import TrainingVMHook
    from edge_training.residency.gate_record import GateRecord
    from edge_training.residency.receipt import SignedReceipt

RECORD_FOLDER = ".edge-training/records"
LARGEST_RECORD_BYTES = 64 * 1024 * 1024
SETTLE_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended.

    :param run_id: its id.
    :param experiment: the experiment's name.
    :param state: Azure ML's word for how it ended.
    """

    run_id: str
    experiment: str
    state: str


@dataclass(frozen=True)
class Audited:
    """What came of a run's audit.

    :param receipt: the signed receipt, stored.
    :param name: its name in the container.
    :param found: what the comparison came to.
    :param record: what the gate let out.
    :param fault: the sentences to fail with, or ``""``.
    """

    receipt: SignedReceipt
    name: str
    found: Audit
    record: GateRecord
    fault: str


@dataclass(frozen=True)
class Scope:
    """What the audits of all runs of a DAG run have in common.

    :param site: the site's name.
    :param verified: what the DAG run had verified, and gave to its runs; ``None`` when nobody knows any more.
    :param platform_files: patterns of further files that the platform writes.
    :param settle_seconds: how long things that are missing may still arrive.
    :param delete_foreign: whether files that nobody let out are deleted from the run.
    """

    site: str
    verified: Submitted | None
    platform_files: tuple[str, ...]
    settle_seconds: float
    delete_foreign: bool


class RunAuditor:
    """Audits the runs of a DAG run, one after the other.

    :param scope: what they have in common.
    :param hook: asks Azure ML.
    :param vm: has the gate's records.
    :param store: keeps the receipts.
    :param key: signs them.
    :param log: where to say what was found.
    """

    def __init__(
        self,
        scope: Scope,
        hook: AzureMLEvidenceHook,
        vm: TrainingVMHook,
        store: ReceiptStore,
        key: Ed25519PrivateKey,
        log: Logger,
    ) -> None:
        self._scope, self._hook, self._vm, self._store, self._key, self._log = scope, hook, vm, store, key, log

    def receipts(self, run_id: str) -> list[SignedReceipt]:
        """Return the receipts that a run has already, the newest first.

        :param run_id: the run's id.
        """
        return receipts_of(self._store, self._scope.site, run_id, public_key_text(self._key))

    def submitted(self, run_id: str) -> Submitted | None:
        """Return what a run was submitted with: as it was written down then, else what its DAG run has verified, if anybody knows.

        :param run_id: the run's id.
        :raises ResidencyError: when what was written down was changed.
        """
        note = self._store.noted(self._scope.site, run_id)
        return self._scope.verified if note is None else Submitted.from_bytes(note, run_id)

    def audit(self, run: EndedRun, submitted: Submitted) -> Audited:
        """Collect, compare, sign, store, tag; then say what was found. The same again gives the same receipt.

        :param run: the run.
        :param submitted: what it must have been submitted with.
        :raises ResidencyError: when the record or the chain of receipts was tampered with, or the record of a completed run is gone.
        """
        scope = self._scope
        expected = self._expected(run, submitted)
        found = self._compare(expected)
        facts = statement(
            site=scope.site,
            run=_facts(run, expected.record, submitted),
            data=submitted.data,
            code=submitted.code,
            record=expected.record,
            audit=found,
        )
        signed = issue(self._store, facts, self._key, grants.time_text(datetime.now(UTC)))
        self._hook.tag_run(run.run_id, {RECEIPT: signed.digest})
        name = self._store.name_of(scope.site, signed.sequence)
        self._log.info("Receipt %s of site '%s' is %s in %s.", signed.sequence, scope.site, signed.digest, name)
        return Audited(signed, name, found, expected.record, self._fault(run, found, expected.record))

    def _expected(self, run: EndedRun, submitted: Submitted) -> Expected:
        """Put together what may be there: from the tasks before, and from the gate's record on the VM."""
        scope, data = self._scope, submitted.data
        home = self._vm.home()
        content = read_kept(self._vm, home, f"{run.run_id}.json")
        if not content and run.state == COMPLETED:
            raise ResidencyError(
                f"The VM has no record of run {run.run_id} (~/{RECORD_FOLDER}): without it nobody knows what was let out, so nothing is "
                "registered. The runner writes it at the end of each run; somebody removed it."
            )
        record = parse_record(content) if content else no_record(run.run_id, data.fingerprint)
        # One that failed before it had understood its arguments has no data.
        if record.fingerprint != data.fingerprint and (record.fingerprint or run.state == COMPLETED):
            raise ResidencyError(
                f"Run {run.run_id} was for data {record.fingerprint}, verified was {data.fingerprint}. Nothing is registered."
            )
        path = grants.grant_path(home, grants.grant_name(*submitted.dag_run))
        return Expected(
            run_id=run.run_id,
            code=submitted.code,
            record=record,
            record_content=content,
            kept_log=b"" if run.state == COMPLETED else read_kept(self._vm, home, f"{run.run_id}.log"),
            tags=lineage_of(scope.site, run.run_id, submitted),
            arguments=tuple(run_arguments(path, data.fingerprint, submitted.parameters)),
            receipts=frozenset(receipt.digest for receipt in self.receipts(run.run_id)),
            rules=PlatformRules((*PLATFORM_FILES, *scope.platform_files)),
        )

    def _compare(self, expected: Expected) -> Audit:
        """Compare, again for a while when things are only missing: the service may not show everything at once."""
        deadline = time.monotonic() + self._scope.settle_seconds
        fetch = partial(is_looked_into, record=expected.record, rules=expected.rules)
        while True:
            found = audit(expected, self._hook.evidence(expected.run_id, fetch))
            only_missing = not found.is_clean and all(one.found == MISSING for one in found.differences)
            if not only_missing or time.monotonic() > deadline:
                return found
            self._log.info("%d things are not there yet; looking again.", len(found.differences))
            time.sleep(SETTLE_PAUSE_SECONDS)

    def _fault(self, run: EndedRun, found: Audit, record: GateRecord) -> str:
        """Say what was found, and return what to fail with when anything is not accounted for."""
        self._log.info("Compared for run %s (%s): %s.", run.run_id, run.state, _listed(found.compared))
        self._log.info("Bytes that left: %s.", _listed(found.bytes_out))
        for item in record.held_back:
            self._log.warning("Held back: a %s: %s", item.kind, item.reason)
        if found.result == "no record":
            self._log.warning(
                "Run %s was killed before it wrote its record: what it had measured by then is counted, but not vouched for.",
                run.run_id,
            )
        if found.is_clean:
            return ""
        lines = table(found)
        for line in lines:
            self._log.error("%s", line)
        deleted = self._delete(run.run_id, found)
        count = len(found.differences)
        holds = "1 thing that is" if count == 1 else f"{count} things that are"
        return (
            f"Of run {run.run_id} Azure ML holds {holds} not accounted for; no model is registered."
            f"{deleted} The receipt has all of them. Find out where they come from before you train again.\n"
            + "\n".join(lines)
        )

    def _delete(self, run_id: str, found: Audit) -> str:
        if not found.foreign or not self._scope.delete_foreign:
            return ""
        for name in found.foreign:
            self._hook.delete_artifact(run_id, name)
        return f" {len(found.foreign)} files were deleted from the run, as the site asks."


def read_kept(vm: TrainingVMHook, home: str, name: str) -> bytes:
    """Return what the runner has kept of a run on the VM, or nothing when it has not.

    :param vm: the training VM.
    :param home: the account's home directory.
    :param name: the file's name: the run's id with ``.json`` for the gate's record, with ``.log`` for the log.
    :raises ResidencyError: when it cannot be read, or is too large.
    :raises ComputeError: when the VM cannot be asked.
    """
    path = f"{home.rstrip('/')}/{RECORD_FOLDER}/{name}"
    # Packed, because a record names thousands of items, and as text, because that is what a command prints.
    quoted = shlex.quote(path)
    packed = vm.output(f"test ! -f {quoted} || gzip -c {quoted} | base64 -w0", "read the record of a run")
    if not packed.strip():
        return b""
    try:
        unpacker = zlib.decompressobj(wbits=31)
        content = unpacker.decompress(base64.b64decode(packed, validate=True), LARGEST_RECORD_BYTES)
    except (zlib.error, binascii.Error):
        content = b""
    if not content or unpacker.unconsumed_tail:
        raise ResidencyError(f"The file {path} on the VM cannot be read, or is too large.")
    return content


def lineage_of(site: str, run_id: str, submitted: Submitted) -> dict[str, str]:
    """Return the lineage that a run must carry.

    :param site: the site's name.
    :param run_id: the run's id.
    :param submitted: what it was submitted with.
    """
    dag_id, dag_run_id = submitted.dag_run
    return run_lineage(
        site=site,
        data=submitted.data,
        code=submitted.code,
        dag_id=dag_id,
        dag_run_id=dag_run_id,
        run_id=run_id,
        attempt=attempt_of(run_id),
    )


def attempt_of(run_id: str) -> int:
    """Return the attempt that a run's id ends with.

    :param run_id: the run's id.
    :raises RunFailedError: when it has none.
    """
    text = run_id.rpartition("-")[2]
    if not text.isdigit():
        raise RunFailedError(f"Run {run_id} was not submitted by this pipeline: its id has no attempt.", run_id=run_id)
    return int(text)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


def _facts(run: EndedRun, record: GateRecord, submitted: Submitted) -> dict[str, Any]:
    dag_id, dag_run_id = submitted.dag_run
    code, message = record.error
    failure = {"error": {"code": code, "message_sha256": message}} if run.state != COMPLETED else {}
    return {
        "id": run.run_id,
        "experiment": run.experiment,
        "state": run.state,
        "attempt": attempt_of(run.run_id),
        "dag_id": dag_id,
        "dag_run_id": dag_run_id,
        **failure,
    }
