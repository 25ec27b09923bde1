"""The records that the tasks of the pipeline hand on to each other.

Each is frozen and travels through XCom as the plain JSON object that :meth:`Record.to_json` returns, so that people can read it
in the Airflow UI and a later version of the code can refuse it with a plain error instead of failing half-way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Self, get_args, get_type_hints

from edge_training.exceptions import ConfigurationError

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What all records share: the way to JSON and back."""

    def to_json(self) -> JsonObject:
        """Return the record as an object that ``json.dumps`` accepts."""
        plain: JsonObject = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Make the record of what :meth:`to_json` returned, also when it went through JSON text on the way.

        :param value: the object, usually an XCom of the task before.
        :raises ConfigurationError: when it is not an object with exactly this record's fields.
        """
        if not isinstance(value, dict):
            raise ConfigurationError(
                f"Expected a {cls.__name__} as an object, found {type(value).__name__}: did the task before return nothing? "
                "Clear it together with this task."
            )
        known = {f.name: f for f in dataclasses.fields(cls)}
        required = {
            name
            for name, f in known.items()
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        unknown, missing = sorted(set(value) - set(known)), sorted(required - set(value))
        if unknown or missing:
            raise ConfigurationError(
                f"This is not a {cls.__name__}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}. "
                "The task before ran with another version of the code: clear it together with this task."
            )
        hints = get_type_hints(cls)
        return cls(**{name: _revive(hints[name], item) for name, item in value.items()})


def _revive(hint: Any, item: Any) -> Any:
    """Turn a JSON list back into the tuple of records that the field's type names."""
    inner = get_args(hint)
    if inner and inner[-1] is Ellipsis and isinstance(item, (list, tuple)):
        element = inner[0]
        is_record = isinstance(element, type) and issubclass(element, Record)
        return tuple(element.from_json(one) if is_record else one for one in item)
    return item


def canonical_digest(value: object) -> str:
    """Return ``sha256:<hex>`` over the canonical JSON of a value: sorted keys, no spaces, UTF-8.

    :param value: anything that ``json.dumps`` accepts.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class BlobItem(Record):
    """One training blob as it was when it was verified.

    :param name: the blob's full name in its container.
    :param size: bytes.
    :param etag: the store's ETag, with its quotes; the run fetches with ``If-Match`` on it.
    :param content_hash: ``"sha256:<hex>"`` or ``"md5:<hex>"`` over the blob's bytes.
    :param last_modified: ISO 8601, UTC.
    """

    name: str
    size: int
    etag: str
    content_hash: str
    last_modified: str


@dataclass(frozen=True)
class BlobManifest(Record):
    """Exactly the blobs that a run is to train on.

    :param account_url: the blob endpoint, ``https://account.blob.region.fqdn`` or ``https://host:port/account``.
    :param container: the blob container.
    :param prefix: what the blobs' names begin with.
    :param columns: the header that every blob was found to have, in order.
    :param blobs: the blobs, sorted by name.
    """

    account_url: str
    container: str
    prefix: str
    columns: tuple[str, ...]
    blobs: tuple[BlobItem, ...]

    @property
    def total_bytes(self) -> int:
        """Return the size of all blobs together in bytes."""
        return sum(blob.size for blob in self.blobs)

    @property
    def fingerprint(self) -> str:
        """Return the data's fingerprint, over names, sizes and contents: the same data uploaded again has the same one."""
        return canonical_digest([[blob.name, blob.size, blob.content_hash] for blob in self.blobs])


@dataclass(frozen=True)
class CodeFile(Record):
    """One file that a run's snapshot carries.

    :param path: relative to the snapshot's root, with forward slashes.
    :param size: bytes.
    :param sha256: hex digest over the file's bytes.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class CodeManifest(Record):
    """Exactly the files that leave the premises as a run's snapshot.

    :param project: the training project's name, a folder of ``include/training_scripts``.
    :param files: the files, sorted by path.
    """

    project: str
    files: tuple[CodeFile, ...]

    @property
    def digest(self) -> str:
        """Return the code's digest, over paths, sizes and contents."""
        return canonical_digest([[file.path, file.size, file.sha256] for file in self.files])


@dataclass(frozen=True)
class ComputeTarget(Record):
    """The training VM as it was measured, and as it is attached to Azure ML.

    :param name: the compute target's name in the workspace.
    :param address: what Azure ML reaches the VM by: a host name or address, or ``""`` when it was attached by resource id.
    :param port: SSH port.
    :param user: the account that trains.
    :param resource_id: the VM's ARM resource id, or ``""`` when it was attached by address.
    :param host_key: the pinned host key's fingerprint, ``SHA256:...`` as ``ssh-keygen -l`` prints it.
    :param python: absolute path of the interpreter that training uses on the VM.
    :param python_version: such as ``"3.11.2"``.
    :param cpus: processors that the account may use.
    :param memory_bytes: memory of the VM.
    :param disk_free_bytes: free space where the run works.
    :param gpus: number of GPUs that ``nvidia-smi`` lists.
    :param docker: Docker's version, or ``""`` when there is none.
    :param attached: what this task did: ``"unchanged"``, ``"attached"`` or ``"reattached"``.
    """

    name: str
    address: str
    port: int
    user: str
    resource_id: str
    host_key: str
    python: str
    python_version: str
    cpus: int
    memory_bytes: int
    disk_free_bytes: int
    gpus: int
    docker: str
    attached: str


@dataclass(frozen=True)
class DataGrant(Record):
    """Where on the VM the run finds its short-lived, read-only permission for exactly the verified blobs.

    It carries no credential: the permission itself never leaves the VM and the pipeline.

    :param path: absolute path of the grant on the VM, mode 0600.
    :param fingerprint: the data fingerprint that the grant is for.
    :param expires: ISO 8601, UTC.
    """

    path: str
    fingerprint: str
    expires: str


@dataclass(frozen=True)
class RunHandle(Record):
    """A run that was submitted, or found to be submitted already.

    :param run_id: the run's id, chosen before it was submitted.
    :param experiment: the experiment's name.
    :param compute: the compute target's name.
    :param attempt: 1 for the first submission of a DAG run, one more each time that an earlier one had failed.
    :param decision: what the task did: ``"submitted"``, ``"attached"`` or ``"adopted"``.
    :param portal_url: the run's page in Azure ML Studio.
    """

    run_id: str
    experiment: str
    compute: str
    attempt: int
    decision: str
    portal_url: str


@dataclass(frozen=True)
class RunResult(Record):
    """A run that completed.

    :param run_id: the run's id.
    :param experiment: the experiment's name.
    :param state: Azure ML's own word, ``"Completed"``.
    :param metrics: the last value of each numeric metric.
    :param artifacts: names of the files that Azure ML holds for the run, sorted.
    :param seconds: from start to end as Azure ML recorded it.
    :param portal_url: the run's page in Azure ML Studio.
    """

    run_id: str
    experiment: str
    state: str
    metrics: dict[str, float]
    artifacts: tuple[str, ...]
    seconds: float
    portal_url: str


@dataclass(frozen=True)
class ResidencyReceipt(Record):
    """A signed receipt of what left the premises for a run, and where it is kept.

    :param run_id: the run's id.
    :param digest: ``sha256:<hex>`` over the receipt; it stands on run, model and image.
    :param container: the blob container.
    :param name: the receipt's name in it.
    :param sequence: its number in the site's chain.
    :param items: how many things the gate let out.
    :param withheld: how many it did not.
    :param bytes_out: bytes that left, of every kind.
    :param models: file name → SHA-256 of each model file that was let out.
    """

    run_id: str
    digest: str
    container: str
    name: str
    sequence: int
    items: int
    withheld: int
    bytes_out: int
    models: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelVersion(Record):
    """A model that is registered in Azure ML.

    :param name: the model's name.
    :param version: its version, counted by Azure ML from 1.
    :param model_id: ``name:version``.
    :param run_id: the run that made it.
    :param file: the model file's name, such as ``model.onnx``.
    :param sha256: hex digest over the model file's bytes.
    :param tags: the lineage that stands on the version.
    """

    name: str
    version: int
    model_id: str
    run_id: str
    file: str
    sha256: str
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageReference(Record):
    """An image in a registry, by digest; the tag is for people.

    :param registry: the registry's address, ``host`` or ``host:port``.
    :param repository: the repository in it.
    :param digest: ``sha256:<hex>`` of the manifest.
    :param tag: the tag that points at it, or ``""``.
    :param size: bytes of all layers as they are stored.
    :param dependencies: digest of the layer that holds the packages of the serving lock and nothing else, or ``""`` when there is none.
    """

    registry: str
    repository: str
    digest: str
    tag: str = ""
    size: int = 0
    dependencies: str = ""

    @property
    def pinned(self) -> str:
        """Return the reference to deploy by: ``registry/repository@digest``."""
        return f"{self.registry}/{self.repository}@{self.digest}"


@dataclass(frozen=True)
class ImageVerification(Record):
    """An image that was started where it will run, and answered as it should.

    :param reference: ``registry/repository@digest``.
    :param digest: of its manifest.
    :param host: where it was tried: ``account@address:port``.
    :param isolation: what it ran in: ``"bubblewrap"``, ``"podman"`` or ``"runc"``.
    :param compared: how many values of its answers were compared with those recorded at training; 0 when none were recorded.
    :param layers: how many it has.
    :param scanned_files: how many files of it were compared with the training data before it was started.
    :param scanned_bytes: their size together.
    :param scan_seconds: how long that took.
    :param fetched_layers: how many of them were not on the host yet; their digests were checked, and those of the others when they came.
    :param pull_seconds: to fetch and unpack what was missing.
    :param cold_start_seconds: from the start of its program until it was healthy.
    :param p50_seconds: median time to an answer; 0 when there was nothing to ask.
    :param p95_seconds: 95th percentile of it.
    :param memory_bytes: memory of all its processes after that.
    """

    reference: str
    digest: str
    host: str
    isolation: str
    compared: int
    layers: int
    scanned_files: int
    scanned_bytes: int
    scan_seconds: float
    fetched_layers: int
    pull_seconds: float
    cold_start_seconds: float
    p50_seconds: float
    p95_seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Deployment(Record):
    """Which image runs, or is ready to run, at one target of a site.

    :param target: the target's name in the site file.
    :param kind: ``"host"``, ``"layout"``, ``"kubernetes"`` or ``"app_service"``.
    :param where: where it answers, or the file or folder that was written.
    :param reference: ``registry/repository@digest``.
    :param digest: of its manifest.
    :param model: the model's name.
    :param version: the model's version.
    :param previous: digest of what was there before, or ``""``.
    :param decision: what the task did: ``"deployed"``, or ``"unchanged"`` when it was there already.
    :param since: ISO 8601, UTC.
    :param seconds: how long the task needed for this target.
    """

    target: str
    kind: str
    where: str
    reference: str
    digest: str
    model: str
    version: str
    previous: str
    decision: str
    since: str
    seconds: float


@dataclass(frozen=True)
class AttachedCompute(Record):
    """A compute target as Azure ML knows it.

    :param name: its name in the workspace.
    :param address: host name or address, or ``""`` when it was attached by resource id.
    :param port: SSH port.
    :param resource_id: ARM resource id, or ``""`` when it was attached by address.
    :param provisioning_state: Azure ML's own word, ``"Succeeded"`` when it can be used.
    :param errors: what went wrong when it was attached.
    """

    name: str
    address: str
    port: int
    resource_id: str
    provisioning_state: str
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunStatus(Record):
    """A run as Azure ML answers for it at one moment.

    :param run_id: the run's id.
    :param state: Azure ML's own word, such as ``"Running"``.
    :param portal_url: the run's page in Azure ML Studio.
    :param error_code: the run's own error code, or ``""``.
    :param error_message: the run's own error, or ``""``.
    :param started: ISO 8601, UTC, or ``""`` while it has not started.
    :param ended: ISO 8601, UTC, or ``""`` while it has not ended.
    """

    run_id: str
    state: str
    portal_url: str = ""
    error_code: str = ""
    error_message: str = ""
    started: str = ""
    ended: str = ""
