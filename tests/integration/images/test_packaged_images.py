"""The second way to an image: Azure ML packages the model, and it ends as the first way does."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.hooks.container_registry import ContainerRegistryHook
from edge_training.hooks.receipt_store import ReceiptStore
from edge_training.images.base import resolve_base
from edge_training.images.packaged import labels_of, pinned_requirements
from edge_training.images.referrers import RECEIPT, SBOM, find_referrers
from edge_training.operators.image import BuildAndPushImageOperator
from edge_training.records import ImageReference, ModelVersion, ResidencyReceipt
from tests.integration.training.conftest import azure_ml_fields, blob_fields, registry_fields
from tests.unit.images.models import TINY_ONNX

if TYPE_CHECKING:
    from pathlib import Path

    from tests.airflow_harness import AirflowConnection, RunTask

# The SDK's own copy of a YAML library says so while it checks a scoring configuration.
pytestmark = pytest.mark.filterwarnings(
    "ignore:\\s*(round_trip_dump|dump_all) will be removed:PendingDeprecationWarning"
)

RECEIPT_BYTES = b'{"receipt":{"site":"test"},"signature":"x"}'
LOCK = "# made by hand\nblinker==1.9.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n    # via flask\n"


@pytest.fixture
def env(local_site_env: dict[str, str], airflow_connection: AirflowConnection) -> dict[str, str]:
    """Give Airflow the site's connections."""
    site = local_site_env
    airflow_connection("azure_ml", **azure_ml_fields(site))
    airflow_connection("container_registry", **registry_fields(site))
    airflow_connection("stack_hub_blob", **blob_fields(site))
    return site


@pytest.fixture
def model(env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelVersion:
    from azureml.core import Model

    from edge_training.hooks.azure_ml import AzureMLHook

    monkeypatch.chdir(tmp_path)  # the SDK takes files below the working directory only
    (tmp_path / "model.onnx").write_bytes(TINY_ONNX)
    registered = Model.register(AzureMLHook().workspace, "model.onnx", "packaged")
    return ModelVersion(
        name="packaged",
        version=registered.version,
        model_id=registered.id,
        run_id="run-1",
        file="model.onnx",
        sha256=hashlib.sha256(TINY_ONNX).hexdigest(),
        tags={"site": "test", "code_digest": "sha256:c0de"},
    )


@pytest.fixture
def receipt(env: dict[str, str]) -> ResidencyReceipt:
    store = ReceiptStore("receipts-of-images")
    store.receipts("test")
    name = store.name_of("test", 1)
    store.add(name, RECEIPT_BYTES, "run-1")
    digest = "sha256:" + hashlib.sha256(RECEIPT_BYTES).hexdigest()
    return ResidencyReceipt("run-1", digest, "receipts-of-images", name, 1, items=0, withheld=0, bytes_out=0)


def operator(folder: Path, model: ModelVersion, **changes: Any) -> BuildAndPushImageOperator:
    project = folder / "include/training_scripts/tumour"
    project.mkdir(parents=True, exist_ok=True)
    (project / "score.py").write_text("def init(): ...\ndef run(data): ...\n")
    (project / "train.py").write_text("not for the image")
    lock = folder / "include/serving/requirements.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(LOCK)
    settings: dict[str, Any] = {
        "model": model.to_json(),
        "base": "base/python:3.11-bookworm",
        "project": "tumour",
        "scripts_folder": str(project.parent),
        "repository": "packaged/tumour",
        "builder": "azure_ml",
        "package_interval": timedelta(seconds=0.1),
    }
    return BuildAndPushImageOperator(task_id="build_and_push_image", **{**settings, **changes})


def test_azure_ml_makes_the_image_with_our_lineage_and_a_retry_finds_it(
    env: dict[str, str], model: ModelVersion, receipt: ResidencyReceipt, run_task: RunTask, tmp_path: Path
) -> None:
    outcome = run_task(operator(tmp_path, model, receipt=receipt.to_json()))
    assert outcome.state == "success", outcome.error
    reference = ImageReference.from_json(outcome.value)
    assert (reference.repository, reference.tag) == ("packaged/tumour", f"v{model.version}")
    with ContainerRegistryHook().client() as client:
        assert client.find_digest(reference.repository, reference.tag) == reference.digest
        image = resolve_base(client, f"{reference.repository}@{reference.digest}", None)
        labels = labels_of(image)
        assert labels["edge-training.model"] == "packaged"
        assert labels["edge-training.model_version"] == str(model.version)
        assert labels["edge-training.run_id"] == "run-1"
        assert image.config["config"]["Entrypoint"][:3] == ["python3", "-m", "azureml_inference_server_http"]
        attached = {
            one["artifactType"]: one["digest"] for one in find_referrers(client, reference.repository, reference.digest)
        }
        assert set(attached) == {RECEIPT, SBOM}
        manifest = client.find_manifest(reference.repository, attached[RECEIPT])
        assert manifest is not None
        layer = json.loads(manifest.body)["layers"][0]
        assert layer["digest"] == receipt.digest
    again = run_task(operator(tmp_path / "another-worker", model, receipt=receipt.to_json()), try_number=2)
    assert again.value == outcome.value


def test_a_package_that_azure_ml_cannot_make_says_why(
    env: dict[str, str], model: ModelVersion, run_task: RunTask, tmp_path: Path
) -> None:
    one = operator(tmp_path, model, repository="packaged/impossible")
    (tmp_path / "include/serving/requirements.lock").write_text("blinker==0.0.0.999\n")
    outcome = run_task(one)
    assert isinstance(outcome.error, ImageError)
    assert "Azure ML could not make the image of model 'packaged:" in str(outcome.error)
    assert "blinker" in str(outcome.error)
    with ContainerRegistryHook().client() as client:
        assert client.list_tags("packaged/impossible") == []


def test_a_receipt_that_was_changed_is_not_attached(
    env: dict[str, str], model: ModelVersion, receipt: ResidencyReceipt, run_task: RunTask, tmp_path: Path
) -> None:
    told = {**receipt.to_json(), "digest": "sha256:" + "0" * 64}
    outcome = run_task(operator(tmp_path, model, repository="packaged/changed", receipt=told))
    assert isinstance(outcome.error, ImageError)
    assert "is not the one that was signed" in str(outcome.error)


def test_the_requirements_of_a_lock_keep_their_exact_versions(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(LOCK + 'colorama==0.4.6 ; sys_platform == "win32" \\\n    --hash=sha256:02\n')
    assert pinned_requirements(tmp_path / "lock") == (
        "blinker==1.9.0",
        'colorama==0.4.6 ; sys_platform == "win32"',
    )
    with pytest.raises(ConfigurationError, match="does not exist"):
        pinned_requirements(tmp_path / "none")
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(ImageError, match="names no package"):
        pinned_requirements(tmp_path / "empty")
