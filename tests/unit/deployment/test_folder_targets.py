"""What is written for targets that take a file: Kubernetes manifests, and the notes by which one can go back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from edge_training.deployment.kubernetes import manifest
from edge_training.deployment.notes import MOST, note, read_notes, write_whole
from edge_training.deployment.targets import Candidate, HostTarget, KubernetesTarget, read_targets
from edge_training.exceptions import ConfigurationError, DeploymentError

if TYPE_CHECKING:
    from pathlib import Path

REFERENCE = "registry:5000/models/tiny@sha256:" + "a" * 64


def candidate(number: int) -> Candidate:
    return Candidate("models/tiny", f"sha256:{number:064x}", "tiny", str(number), f"run-{number}")


def test_a_manifest_is_a_deployment_by_digest_and_its_service() -> None:
    target = KubernetesTarget("tiny", "/srv", namespace="models", replicas=3, port=8000)
    deployment, service = yaml.safe_load_all(manifest(target, candidate(7), REFERENCE, 5001))
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == REFERENCE
    assert container["ports"] == [{"name": "http", "containerPort": 5001}]
    assert service["spec"]["ports"] == [{"name": "http", "port": 8000, "targetPort": "http"}]
    # A cluster refuses a Deployment whose selector does not match its own pods.
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert {one["metadata"]["namespace"] for one in (deployment, service)} == {"models"}
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["spec"]["volumes"]}


@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_a_manifest_is_one_by_the_published_schema_of_kubernetes(version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    target = KubernetesTarget("tiny", "/srv", namespace="models", replicas=3, port=8000, memory="1.5Gi", cpu="1")
    documents = list(yaml.safe_load_all(manifest(target, candidate(7), REFERENCE, 5001)))
    assert len(documents) == 2
    for document in documents:
        validator.validate(document, version, strict=True)
        with pytest.raises(validator.ValidationError):
            validator.validate({**document, "spec": {**document["spec"], "replica": 1}}, version, strict=True)


def test_the_same_image_gives_the_same_manifest_without_references_in_it() -> None:
    texts = {manifest(KubernetesTarget("tiny", "/srv"), candidate(7), REFERENCE, 5001) for _ in range(2)}
    assert len(texts) == 1
    assert "&id" not in texts.pop()


def test_what_was_deployed_is_noted_the_newest_first(tmp_path: Path) -> None:
    for number in (1, 2, 1, 3):
        note(tmp_path, "tiny", candidate(number), read_notes(tmp_path, "tiny"))
    assert [one.version for one in read_notes(tmp_path, "tiny")] == ["3", "1", "2"]
    assert read_notes(tmp_path, "another") == ()


def test_notes_do_not_grow_for_ever(tmp_path: Path) -> None:
    for number in range(2 * MOST):
        note(tmp_path, "tiny", candidate(number), read_notes(tmp_path, "tiny"))
    assert len(read_notes(tmp_path, "tiny")) == MOST


@pytest.mark.parametrize("text", ["{", "[{}]", "7", '[{"digest": "x"}]'])
def test_a_damaged_note_is_said_and_not_taken_for_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "tiny.deployed.json").write_text(text)
    with pytest.raises(DeploymentError, match="is damaged"):
        read_notes(tmp_path, "tiny")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeploymentError, match="cannot be written"):
        write_whole(tmp_path / "file" / "x", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_targets_are_read_by_their_kind() -> None:
    (host,) = read_targets([{"kind": "host", "name": "edge", "connection": "c", "port": 1, "keep": 3}])
    assert host == HostTarget("edge", "c", port=1, keep=3)
    with pytest.raises(ConfigurationError, match="no kind of target 'mainframe'; known are host"):
        read_targets([{"kind": "mainframe"}])
