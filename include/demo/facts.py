"""The facts of one demo: what the tasks handed on to each other, what the image answered, and how long it all took."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.records import (
    BlobManifest,
    Deployment,
    ImageReference,
    ImageVerification,
    ModelVersion,
    ResidencyReceipt,
    RunHandle,
    RunResult,
)
from local_site import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from demo.answer import Answer
    from demo.api import AirflowApi


@dataclass(frozen=True)
class RunFacts:
    """What a DAG run has made, as its tasks say.

    :param dag_seconds: the DAG run's duration.
    """

    dag_run_id: str
    dag_seconds: float
    data: BlobManifest
    handle: RunHandle
    result: RunResult
    receipt: ResidencyReceipt
    model: ModelVersion
    image: ImageReference
    verification: ImageVerification
    deployment: Deployment

    @property
    def pipeline_tax(self) -> float:
        """Seconds that the DAG run took beside the remote training."""
        return self.dag_seconds - self.result.seconds


def collect(api: AirflowApi, dag_id: str, dag_run_id: str, dag_seconds: float) -> RunFacts:
    """Read the facts of a DAG run that succeeded from what its tasks handed on."""

    def handed_on(task_id: str) -> Any:
        return api.xcom(dag_id, dag_run_id, task_id)

    return RunFacts(
        dag_run_id=dag_run_id,
        dag_seconds=dag_seconds,
        data=BlobManifest.from_json(handed_on("verify_blob_data")),
        handle=RunHandle.from_json(handed_on("submit_experiment")),
        result=RunResult.from_json(handed_on("poll_run")),
        receipt=ResidencyReceipt.from_json(handed_on("audit_egress")),
        model=ModelVersion.from_json(handed_on("register_model")),
        image=ImageReference.from_json(handed_on("build_and_push_image")),
        verification=ImageVerification.from_json(handed_on("verify_image")),
        deployment=Deployment.from_json(handed_on("deploy_model")[0]),
    )


def as_json(facts: RunFacts, answer: Answer, access: Mapping[str, str], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the facts as the object that ``demo.json`` holds.

    :param facts: of the DAG run.
    :param answer: of the image.
    :param access: addresses and logins by name.
    :param seconds: step → its duration.
    """
    return {
        "dag_run": facts.dag_run_id,
        "data": {
            "container": facts.data.container,
            "prefix": facts.data.prefix,
            "blobs": len(facts.data.blobs),
            "bytes": facts.data.total_bytes,
            "fingerprint": facts.data.fingerprint,
        },
        "run": {
            "id": facts.result.run_id,
            "experiment": facts.result.experiment,
            "state": facts.result.state,
            "attempt": facts.handle.attempt,
            "metrics": facts.result.metrics,
            "seconds": facts.result.seconds,
        },
        "receipt": {
            "digest": facts.receipt.digest,
            "place": f"{facts.receipt.container}/{facts.receipt.name}",
            "items": facts.receipt.items,
            "withheld": facts.receipt.withheld,
            "bytes_out": facts.receipt.bytes_out,
        },
        "model": {
            "name": facts.model.name,
            "version": facts.model.version,
            "file": facts.model.file,
            "sha256": facts.model.sha256,
        },
        "image": {
            "reference": facts.image.pinned,
            "repository": facts.image.repository,
            "digest": facts.image.digest,
            "tag": facts.image.tag,
            "bytes": facts.image.size,
        },
        "verification": {
            "host": facts.verification.host,
            "isolation": facts.verification.isolation,
            "compared": facts.verification.compared,
            "pull_seconds": round(facts.verification.pull_seconds, 3),
            "cold_start_seconds": round(facts.verification.cold_start_seconds, 3),
            "p50_seconds": round(facts.verification.p50_seconds, 5),
            "p95_seconds": round(facts.verification.p95_seconds, 5),
            "memory_bytes": facts.verification.memory_bytes,
        },
        "deployment": {
            "target": facts.deployment.target,
            "where": facts.deployment.where,
            "digest": facts.deployment.digest,
            "previous": facts.deployment.previous,
            "seconds": facts.deployment.seconds,
        },
        "answer": {"body": answer.body, "request_seconds": round(answer.request_seconds, 4)},
        "access": dict(access),
        "seconds": {step: round(duration, 1) for step, duration in seconds.items()},
        "pipeline_tax_seconds": round(facts.pipeline_tax, 1),
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the facts, readable by their owner only: the UI's login is among them."""
    files.write(path, json.dumps(content, indent=2) + "\n", files.PRIVATE)


def summary(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the facts as names and values for people.

    :param content: what :func:`as_json` returned.
    """
    data, run, model, image = (content[name] for name in ("data", "run", "model", "image"))
    yield "data", f"{data['blobs']} blobs, {data['bytes']:,} bytes in {data['container']}/{data['prefix']}"
    yield "  fingerprint", data["fingerprint"]
    yield "run", f"{run['id']} ({run['state']} in {run['seconds']:.1f} s)"
    yield "  metrics", "  ".join(f"{name} {value:.4g}" for name, value in sorted(run["metrics"].items()))
    receipt = content["receipt"]
    yield (
        "what left",
        f"{receipt['items']} items, {receipt['bytes_out']:,} bytes with code and log; {receipt['withheld']} held back",
    )
    yield "  receipt", f"{receipt['digest']} ({receipt['place']})"
    yield "model", f"{model['name']} version {model['version']} ({model['file']}, sha256 {model['sha256'][:12]}...)"
    yield "image", image["reference"]
    yield "  tag", f"{image['tag']}, {image['bytes'] / 1e6:.1f} MB in all layers"
    yield from _in_service(content)
    yield from content["access"].items()
    yield "time", "  ".join(f"{step} {duration:.1f} s" for step, duration in content["seconds"].items())
    yield "pipeline tax", f"{content['pipeline_tax_seconds']:.1f} s of the DAG run were not remote training"


def _in_service(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    verification, deployment, answer = (content[name] for name in ("verification", "deployment", "answer"))
    compared = (
        f"{verification['compared']} values as at training" if verification["compared"] else "no recorded answers"
    )
    begun = f"on {verification['host']} in {verification['isolation']}: healthy after {verification['cold_start_seconds']:.1f} s"
    yield (
        "verified",
        f"{begun}, {compared}, {verification['memory_bytes'] / 1e6:.0f} MB",
    )
    before = f", instead of {deployment['previous'][:19]}..." if deployment["previous"] else ""
    yield "in service", f"{deployment['where']} ({deployment['target']}{before})"
    yield "  answer", f"{json.dumps(answer['body'])} in {answer['request_seconds'] * 1000:.0f} ms"
