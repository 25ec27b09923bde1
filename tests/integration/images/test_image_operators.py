"""The two operators in a real task runner, against a real registry."""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ConfigurationError, ImageError, ServiceError
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.hooks.azure_ml_versions import AzureMLVersionsHook
from edge_training.hooks.container_registry import ContainerRegistryHook
from edge_training.images.contents import write_contents
from edge_training.images.referrers import SBOM, find_referrers
from edge_training.lineage import IMAGE
from edge_training.operators.image import BuildAndPushImageOperator, ResolveBaseImageOperator
from edge_training.records import ImageReference, ModelVersion
from tests.integration.images.support import PASSWORD, USER, Registry, free_port, push_base
from tests.unit.images.models import TINY_ONNX

if TYPE_CHECKING:
    from pathlib import Path

    from edge_training.images.registry import RegistryClient
    from tests.airflow_harness import AirflowConnection, RunTask

MODEL = TINY_ONNX


@pytest.fixture
def connection(registry: Registry, airflow_connection: AirflowConnection) -> AirflowConnection:
    """Return a function that sets the registry's connection, with changes."""

    def add(conn_id: str = "container_registry", **changes: Any) -> None:
        fields = {
            "conn_type": "azure_container_registry",
            "host": registry.address,
            "login": USER,
            "password": PASSWORD,
            "extra": {"ca_certificate": str(registry.ca)},
        }
        airflow_connection(conn_id, **{**fields, **changes})

    add()
    return add


@pytest.fixture
def written() -> list[tuple[str, dict[str, str]]]:
    """Return what was written on which model version."""
    return []


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, written: list[tuple[str, dict[str, str]]]) -> ModelVersion:
    """Register a model version in place of Azure ML, whose hooks have tests of their own."""

    def download(self: AzureMLHook, name: str, version: int, target: Path) -> Path:
        (target / "model.onnx").write_bytes(MODEL)
        return target / "model.onnx"

    def tag(self: AzureMLHook, version: ModelVersion, tags: dict[str, str]) -> None:
        written.append((version.model_id, tags))

    monkeypatch.setattr(AzureMLHook, "download_model", download)
    monkeypatch.setattr(AzureMLVersionsHook, "tag_version", tag)
    return ModelVersion(
        name="tumour",
        version=3,
        model_id="tumour:3",
        run_id="run-1",
        file="model.onnx",
        sha256=hashlib.sha256(MODEL).hexdigest(),
        tags={"site": "ward-1", "metric.roc_auc": "0.99"},
    )


def build_operator(folder: Path, model: ModelVersion, base: str, **changes: Any) -> BuildAndPushImageOperator:
    """Return the operator for a project with a lock that names no wheel, so that nothing is downloaded."""
    project = folder / "include/training_scripts/tumour"
    project.mkdir(parents=True, exist_ok=True)
    (project / "score.py").write_text("def init(): ...\ndef run(data): ...\n")
    lock = folder / "include/serving/requirements.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("")
    settings: dict[str, Any] = {
        "model": model.to_json(),
        "base": base,
        "project": "tumour",
        "scripts_folder": str(project.parent),
        "repository": "operators/tumour",
        "cache_dir": str(folder / "cache"),
    }
    return BuildAndPushImageOperator(task_id="build_and_push_image", **{**settings, **changes})


def test_a_base_is_pinned_before_anything_is_trained(
    client: RegistryClient, connection: AirflowConnection, run_task: RunTask
) -> None:
    digest = push_base(client, "operators/base:1", {"f": b"x"})
    outcome = run_task(ResolveBaseImageOperator(task_id="resolve", base="operators/base:1"))
    assert outcome.state == "success", outcome.error
    assert outcome.value == f"{client.registry}/operators/base@{digest}"


def test_a_base_that_is_missing_fails_the_first_task(connection: AirflowConnection, run_task: RunTask) -> None:
    outcome = run_task(ResolveBaseImageOperator(task_id="resolve", base="operators/none:1"))
    assert isinstance(outcome.error, ImageError)
    assert "operators/none:1 is not in the registry" in str(outcome.error)


def test_a_refused_password_names_the_connection(connection: AirflowConnection, run_task: RunTask) -> None:
    connection(password="guessed")
    outcome = run_task(ResolveBaseImageOperator(task_id="resolve", base="operators/base:1"))
    assert isinstance(outcome.error, ServiceError)
    assert (outcome.error.status, outcome.error.retryable) == (401, False)
    assert "connection 'container_registry'" in str(outcome.error)
    assert "guessed" not in str(outcome.error)


def test_the_image_of_a_model_is_pushed_and_a_retry_finds_it(
    client: RegistryClient,
    connection: AirflowConnection,
    model: ModelVersion,
    run_task: RunTask,
    tmp_path: Path,
    written: list[tuple[str, dict[str, str]]],
) -> None:
    base = f"{client.registry}/operators/base@{push_base(client, 'operators/base:1', {'f': b'x'})}"
    first = run_task(build_operator(tmp_path, model, base))
    assert first.state == "success", first.error
    reference = ImageReference.from_json(first.value)
    assert (reference.registry, reference.repository, reference.tag) == (client.registry, "operators/tumour", "v3")
    assert client.find_digest("operators/tumour", "v3") == reference.digest
    (attached,) = find_referrers(client, "operators/tumour", reference.digest)
    assert attached["artifactType"] == SBOM
    assert written == [("tumour:3", {IMAGE: reference.digest})]
    since = {IMAGE: reference.digest, "deployed.ward-1.host": "then"}
    noted = dataclasses.replace(model, tags={**model.tags, **since})
    again = run_task(build_operator(tmp_path / "another-worker", noted, base), try_number=2)
    assert again.value == first.value
    assert len(written) == 1


@pytest.mark.parametrize("own", [True, False])
def test_a_project_without_scoring_code_of_its_own_gets_that_for_any_onnx_model(
    own: bool,
    client: RegistryClient,
    connection: AirflowConnection,
    model: ModelVersion,
    run_task: RunTask,
    tmp_path: Path,
) -> None:
    base = f"{client.registry}/operators/base@{push_base(client, 'operators/base:1', {'f': b'x'})}"
    task = build_operator(tmp_path, model, base, repository=f"operators/own-{own}".lower())
    (tmp_path / "include/serving/score.py").write_text("def init(): 'any'\ndef run(data): ...\n")
    if not own:
        (tmp_path / "include/training_scripts/tumour/score.py").unlink()
    outcome = run_task(task)
    assert outcome.state == "success", outcome.error
    write_contents(client, task.repository, outcome.value["digest"], (), tmp_path / "image")
    with tarfile.open(tmp_path / "image") as archive:
        (scoring,) = [member for member in archive if member.name.endswith("/var/azureml-app/score.py")]
        stream = archive.extractfile(scoring)
        assert stream is not None
        assert (b"'any'" in stream.read()) is not own


def test_a_model_that_was_changed_after_it_was_registered_is_not_put_into_an_image(
    client: RegistryClient,
    connection: AirflowConnection,
    model: ModelVersion,
    run_task: RunTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def download(self: AzureMLHook, name: str, version: int, target: Path) -> Path:
        (target / "model.onnx").write_bytes(b"another model")
        return target / "model.onnx"

    monkeypatch.setattr(AzureMLHook, "download_model", download)
    push_base(client, "operators/base:1", {"f": b"x"})
    outcome = run_task(build_operator(tmp_path, model, "operators/base:1", repository="operators/changed"))
    assert isinstance(outcome.error, ImageError)
    assert "it was changed there" in str(outcome.error)
    assert client.find_digest("operators/changed", "v3") == ""


def test_a_model_that_is_not_what_its_extension_says_is_not_put_into_an_image(
    client: RegistryClient,
    connection: AirflowConnection,
    model: ModelVersion,
    run_task: RunTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def download(self: AzureMLHook, name: str, version: int, target: Path) -> Path:
        (target / "model.onnx").write_bytes(b"age,diagnosis")
        return target / "model.onnx"

    monkeypatch.setattr(AzureMLHook, "download_model", download)
    wrong = dataclasses.replace(model, sha256=hashlib.sha256(b"age,diagnosis").hexdigest())
    push_base(client, "operators/base:1", {"f": b"x"})
    outcome = run_task(build_operator(tmp_path, wrong, "operators/base:1", repository="operators/wrong"))
    assert isinstance(outcome.error, ImageError)
    assert "not an ONNX model" in str(outcome.error)
    assert client.find_digest("operators/wrong", "v3") == ""


def test_a_tag_with_an_unknown_word_names_the_known_ones(
    connection: AirflowConnection, model: ModelVersion, run_task: RunTask, tmp_path: Path
) -> None:
    outcome = run_task(build_operator(tmp_path, model, "operators/base:1", tag="{site}"))
    assert isinstance(outcome.error, ConfigurationError)
    assert "known are {version} and {name}" in str(outcome.error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": {"ca_cert": "x"}}, "known are 'authority', 'ca_certificate', 'tenant_id'"),
        ({"login": "", "extra": {"tenant_id": "t"}}, "login must be a client id"),
        ({"extra": {"tenant_id": "t", "authority": "http://login"}}, "an https address"),
        ({"extra": {"ca_certificate": "/no/such/file.pem"}}, "does not exist on this machine"),
        ({"host": ""}, "lacks 'host'"),
        ({"host": "http://registry"}, "only https is spoken"),
        ({"host": "registry/path"}, "without path"),
        ({"conn_type": "http"}, "expected 'azure_container_registry'"),
    ],
)
def test_a_mistake_in_the_connection_says_what_is_expected(
    connection: AirflowConnection, changes: dict[str, Any], message: str
) -> None:
    connection("registry_with_mistake", **changes)
    with pytest.raises(ConfigurationError, match=message):
        ContainerRegistryHook("registry_with_mistake").client()


def test_the_port_may_stand_in_the_connection_s_own_field(connection: AirflowConnection, registry: Registry) -> None:
    host, _, port = registry.address.partition(":")
    connection("registry_with_port", host=f"https://{host}/", port=int(port))
    with ContainerRegistryHook("registry_with_port").client() as client:
        assert client.registry == registry.address
        assert client.find_manifest("operators/none", "1") is None


def test_a_registry_that_is_down_may_be_tried_again_by_airflow(
    connection: AirflowConnection, run_task: RunTask
) -> None:
    connection(host=f"127.0.0.1:{free_port()}")
    outcome = run_task(ResolveBaseImageOperator(task_id="resolve", base="operators/base:1"))
    assert isinstance(outcome.error, ServiceError)
    assert outcome.error.retryable
    assert outcome.state == "up_for_retry"
