"""Compares what the cloud holds for a run with what was let out: anything that is not accounted for is a difference.

Trust nothing that cannot be checked from outside: the service is asked for all that it holds, and each thing must be the pipeline's own
(code, tags, arguments), stand in the gate's record by size and hash (metrics, model, log), or be one of the few things that the platform
writes itself (:mod:`~edge_training.residency.platform_rules`).

A run that failed or was cancelled has left things behind, too. What of it never arrived is no difference, for it has not left. Of one that
was killed before it could write its record, nobody can say whether its metrics and its error are what was let out: they are counted and
not compared, and the receipt says that there is no record; all the rest is compared as ever.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_training.lineage import RECEIPT
from edge_training.residency.platform_rules import (
    PlatformRules,
    fault_of_platform_file,
    is_platform_property,
    is_value_id,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edge_training.records import CodeManifest
    from edge_training.residency.evidence import Evidence, HeldFile, HeldMetric
    from edge_training.residency.gate_record import GateRecord

RECORD_FILE = "outputs/edge_run.json"
MODEL_FOLDER = "outputs/"
RUN_LOG = "user_logs/std_log.txt"
_NEWLINE = b"\n"
SCALAR = "azureml.v1.scalar"
COMPLETED, CANCELED = "Completed", "Canceled"
MISSING = "missing"
# What the platform's shell adds when the runner was killed.
LAST_WORDS_OF_A_SHELL = re.compile(
    rb"(?:Killed|Terminated|Hangup|Aborted|Segmentation fault|Bus error)(?: \(core dumped\))?\n\Z"
)
# The SDK gives every environment this variable; it is the only one.
SDK_VARIABLES = {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"}


@dataclass(frozen=True)
class Difference:
    """Something that the cloud holds and nobody let out, or that was let out and is not there.

    :param where: ``"artifact"``, ``"metric"``, ``"log"``, ``"snapshot"``, ``"tag"`` and the like.
    :param what: which one; a name that could itself carry data is described instead of repeated.
    :param expected: what was let out.
    :param found: what is there; never a part of its content.
    """

    where: str
    what: str
    expected: str
    found: str


@dataclass(frozen=True)
class Expected:
    """What may be there.

    :param run_id: the run's id.
    :param code: the files that were submitted.
    :param record: what the gate let out, as the VM has it.
    :param record_content: the bytes of that record; none when the run was killed before it wrote one.
    :param kept_log: the run's log as the VM has it, for a run that did not complete: a part of it may be all that arrived.
    :param tags: the lineage that stands on the run.
    :param arguments: what the run was submitted with.
    :param receipts: digests of the receipts that exist for this run already.
    :param rules: what the platform itself may have written.
    """

    run_id: str
    code: CodeManifest
    record: GateRecord
    record_content: bytes = field(repr=False)
    tags: Mapping[str, str]
    arguments: tuple[str, ...]
    kept_log: bytes = field(default=b"", repr=False)
    receipts: frozenset[str] = frozenset()
    rules: PlatformRules = field(default_factory=PlatformRules)

    @property
    def has_record(self) -> bool:
        """Tell whether the run has written a record."""
        return bool(self.record_content)


@dataclass(frozen=True)
class Audit:
    """What the comparison came to.

    :param differences: everything that is not accounted for.
    :param foreign: names of the artifacts among them, as Azure ML has them, so that they can be deleted.
    :param has_record: whether there is a record of what was let out.
    :param compared: kind → how many things were compared.
    :param bytes_out: kind → how many bytes are out; the sum is the bound on what could have been smuggled.
    """

    differences: tuple[Difference, ...]
    foreign: tuple[str, ...]
    compared: Mapping[str, int]
    bytes_out: Mapping[str, int]
    has_record: bool = True

    @property
    def is_clean(self) -> bool:
        """Tell whether everything is accounted for."""
        return not self.differences

    @property
    def result(self) -> str:
        """Return the verdict in a word or two, as receipts have it."""
        return "differences" if self.differences else "clean" if self.has_record else "no record"


def is_looked_into(name: str, record: GateRecord, rules: PlatformRules) -> bool:
    """Tell whether the audit needs a file's content; what nobody let out is foreign by its name alone.

    :param name: the artifact's name.
    :param record: what the gate let out.
    :param rules: what the platform itself may have written.
    """
    models = {MODEL_FOLDER + item.name for item in record.passed("model")}
    return name in {RECORD_FILE, RUN_LOG, *models} or rules.is_file(name)


def audit(expected: Expected, held: Evidence) -> Audit:
    """Compare.

    :param expected: what may be there.
    :param held: what is there.
    """
    artifacts = list(_artifacts(expected, held))
    differences = [
        *_snapshots(expected, held),
        *(difference for _, difference in artifacts),
        *_metrics(expected, held),
        *_words(expected, held),
        *_relations(expected, held),
    ]
    if held.state != COMPLETED:
        differences = [one for one in differences if one.found != MISSING]
    return Audit(
        differences=tuple(differences),
        foreign=tuple(name for name, _ in artifacts if name),
        has_record=expected.has_record,
        compared=_compared(expected, held),
        bytes_out=_bytes_out(expected, held),
    )


def _snapshots(expected: Expected, held: Evidence) -> Iterator[Difference]:
    listed = {file.path: (file.size, file.sha256) for file in expected.code.files}
    parents = {"/".join(path.split("/")[:depth]) for path in listed for depth in range(1, path.count("/") + 1)}
    if not held.snapshots:
        yield Difference("snapshot", "of the run", f"{len(listed)} files", "none: it was taken away")
    for snapshot in held.snapshots:
        found = {file.name: (file.size, file.sha256) for file in snapshot.files}
        for number, name in enumerate(sorted(found.keys() - listed.keys()), 1):
            yield Difference("snapshot", shown(name, number), "not submitted", f"{found[name][0]} bytes")
        for name in sorted(listed.keys() - found.keys()):
            yield Difference("snapshot", name, f"{listed[name][0]} bytes", MISSING)
        for name in sorted(name for name in listed.keys() & found.keys() if listed[name] != found[name]):
            yield Difference("snapshot", name, _sized(*listed[name]), _sized(*found[name]))
        for number, name in enumerate(sorted(set(snapshot.folders) - parents), 1):
            yield Difference("snapshot", f"folder {shown(name, number)}", "not submitted", "there")


def _artifacts(expected: Expected, held: Evidence) -> Iterator[tuple[str, Difference]]:
    """Yield each difference with the name of the artifact that may be deleted for it, or ``""``."""
    record_sha256 = hashlib.sha256(expected.record_content).hexdigest()
    let_out = {RECORD_FILE: (len(expected.record_content), record_sha256)} if expected.has_record else {}
    let_out |= {MODEL_FOLDER + item.name: (item.bytes, item.sha256) for item in expected.record.passed("model")}
    found = {file.name for file in held.artifacts}
    repeated = _let_out_lines(held, expected)
    for number, file in enumerate(held.artifacts, 1):
        if file.name in let_out:
            if (file.size, file.sha256) != let_out[file.name]:
                wanted = _sized(*let_out[file.name])
                yield file.name, Difference("artifact", file.name, wanted, _sized(file.size, file.sha256))
        elif file.name == RUN_LOG:
            unfinished = held.state != COMPLETED
            yield from (("", difference) for difference in _log(expected, file, unfinished=unfinished))
        elif not expected.rules.is_file(file.name):
            yield file.name, Difference("artifact", shown(file.name, number), "not let out", "there")
        elif fault := fault_of_platform_file(file, expected.rules, repeated):
            yield file.name, Difference("artifact", shown(file.name, number), "a log of the platform", fault)
    for name in sorted(let_out.keys() - found):
        yield "", Difference("artifact", name, _sized(*let_out[name]), MISSING)


def _log(expected: Expected, file: HeldFile, *, unfinished: bool) -> Iterator[Difference]:
    """Compare the run's log: first exactly the bytes that were let out, then how the runner says that it ends, if it got to that."""
    log = expected.record.log
    if file.content is None:
        yield Difference("log", RUN_LOG, f"{log.bytes} bytes", f"{file.size} bytes, too many to be a log")
        return
    if unfinished and expected.kept_log.startswith(LAST_WORDS_OF_A_SHELL.sub(b"", file.content)):
        return
    let_out, rest = file.content[: log.bytes], file.content[log.bytes :]
    if len(let_out) != log.bytes or hashlib.sha256(let_out).hexdigest() != log.sha256:
        wanted = f"{log.lines} lines, {log.bytes} bytes, sha256 {log.sha256[:12]}"
        yield Difference(
            "log", RUN_LOG, wanted, f"others: {file.content.count(_NEWLINE)} lines, {file.size} bytes in all"
        )
    elif not expected.record.is_ending(rest):
        line = let_out.count(_NEWLINE) + 1
        yield Difference(
            "log", f"{RUN_LOG} from line {line} on", "the runner's last words", f"{len(rest)} bytes that are others"
        )


def _let_out_lines(held: Evidence, expected: Expected) -> set[bytes]:
    """Return the lines of the run's log, which the platform may repeat in its own, if the log is the one that was let out."""
    content = next((file.content for file in held.artifacts if file.name == RUN_LOG), None) or b""
    let_out = content[: expected.record.log.bytes]
    return set(let_out.split(_NEWLINE)) if hashlib.sha256(let_out).hexdigest() == expected.record.log.sha256 else set()


def metric_digest(name: str, value: float, step: int | None) -> str:
    """Return the hash by which the gate records one value of a metric.

    :param name: the metric's name.
    :param value: the number.
    :param step: its step, or ``None``.
    """
    return hashlib.sha256(f"{name}={value!r} step={step}".encode()).hexdigest()


def _metrics(expected: Expected, held: Evidence) -> Iterator[Difference]:
    if not expected.has_record:
        return
    left = Counter((item.name, item.sha256) for item in expected.record.passed("metric"))
    for number, metric in enumerate(held.metrics, 1):
        if fault := _fault_of_metric(metric):
            yield Difference("metric", shown(metric.name, number), "one number", fault)
            continue
        key = (metric.name, metric_digest(metric.name, float(metric.value[metric.name]), metric.step))
        if left[key] > 0:
            left[key] -= 1
        else:
            yield Difference("metric", shown(metric.name, number), "not let out", "a value")
    for name, missing in sorted(Counter(name for name, _ in left.elements()).items()):
        yield Difference("metric", name, f"{missing} more values", MISSING)


def _fault_of_metric(metric: HeldMetric) -> str:
    if metric.kind != SCALAR:
        return "a table, picture or curve"
    if set(metric.value) != {metric.name}:
        return f"{len(metric.value)} columns"
    value = metric.value[metric.name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "no number"
    return "" if is_value_id(metric.value_id) else "an id that is no identifier"


def _words(expected: Expected, held: Evidence) -> Iterator[Difference]:
    """Compare everything that is a name with a text."""
    yield from _pairs("tag", expected.tags, _tags(expected, held))
    known = {snapshot.snapshot_id for snapshot in held.snapshots}
    foreign = {
        name: value
        for name, value in held.properties.items()
        if not (name.endswith("SnapshotId") and value in known) and not is_platform_property(name, value)
    }
    yield from _pairs("property", {}, foreign)
    yield from _pairs(
        "variable", {}, {name: value for name, value in held.variables.items() if SDK_VARIABLES.get(name) != value}
    )
    if held.arguments != expected.arguments:
        yield Difference(
            "arguments", "of the run", f"{len(expected.arguments)} words", f"{len(held.arguments)}, or others"
        )
    yield from _pairs("text", {}, held.texts)
    code, message = held.error
    # The platform has words of its own for a run that it ended; they count as bytes that left.
    is_known = expected.has_record and held.state != CANCELED
    if is_known and (code, hashlib.sha256(message.encode()).hexdigest() if message else "") != expected.record.error:
        yield Difference(
            "error", "of the run", expected.record.error[0] or "none", f"{len(code) + len(message)} characters"
        )


def _tags(expected: Expected, held: Evidence) -> dict[str, str]:
    """Return the run's tags but for that of a receipt which an earlier try put there."""
    return {name: value for name, value in held.tags.items() if name != RECEIPT or value not in expected.receipts}


def _pairs(where: str, wanted: Mapping[str, str], found: Mapping[str, str]) -> Iterator[Difference]:
    """Compare names and values; a value that is another is described, for it could be data."""
    for number, name in enumerate(sorted(found.keys() - wanted.keys()), 1):
        yield Difference(where, shown(name, number), "none", f"{len(found[name])} characters")
    for name in sorted(wanted):
        if found.get(name) != wanted[name]:
            yield Difference(
                where, name, wanted[name], f"{len(found[name])} other characters" if name in found else MISSING
            )


def _relations(expected: Expected, held: Evidence) -> Iterator[Difference]:
    if held.run_id != expected.run_id or expected.record.run_id not in {"", expected.run_id}:
        yield Difference("run", expected.run_id, "the record of this run", "the record of another")
    for number, child in enumerate(held.children, 1):
        yield Difference("run below it", shown(child, number), "none", "there")
    models = {item.sha256 for item in expected.record.passed("model")}
    for number, model in enumerate(held.models, 1):
        if model.properties.get("sha256") not in models:
            yield Difference(
                "model version", shown(model.model_id, number), "made by register_model", "of another origin"
            )
    if held.datasets:
        yield Difference("data set", "of the run", "none", f"{held.datasets} are named")


def _compared(expected: Expected, held: Evidence) -> dict[str, int]:
    return {
        "snapshot_files": sum(len(snapshot.files) for snapshot in held.snapshots),
        "artifacts": len(held.artifacts),
        "metric_values": len(held.metrics),
        "tags": len(_tags(expected, held)),
        "properties": len(held.properties),
        "arguments": len(held.arguments),
    }


def _bytes_out(expected: Expected, held: Evidence) -> dict[str, int]:
    """Add up what is out, by kind; what was not fetched is foreign and has no size."""
    models = {MODEL_FOLDER + item.name for item in expected.record.passed("model")}
    sizes = {file.name: max(0, file.size) for file in held.artifacts}
    words = {**_tags(expected, held), **held.properties, **held.texts}
    by_kind = {
        "code": sum(max(0, file.size) for snapshot in held.snapshots for file in snapshot.files),
        "model": sum(size for name, size in sizes.items() if name in models),
        "log": sizes.get(RUN_LOG, 0),
        "record": sizes.get(RECORD_FILE, 0),
        "platform": sum(size for name, size in sizes.items() if name not in {RUN_LOG, RECORD_FILE, *models}),
        "metrics": _metric_bytes(expected, held),
        "words": sum(len(f"{name}{value}".encode()) for name, value in words.items())
        + sum(len(word.encode()) for word in (*held.arguments, *held.error)),
    }
    return {**by_kind, "total": sum(by_kind.values())}


def _metric_bytes(expected: Expected, held: Evidence) -> int:
    if expected.has_record:
        return sum(item.bytes for item in expected.record.passed("metric"))
    return sum(len(f"{metric.name}={dict(metric.value)!r} step={metric.step}".encode()) for metric in held.metrics)


def _sized(size: int, sha256: str) -> str:
    return f"{size} bytes, sha256 {sha256[:12] or 'unknown'}"
