"""Models become images in the registry, or build contexts, without a Docker daemon."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.integration.azure_ml.servers import AzureML, wait_for
from tests.integration.azure_ml.web import Http, error_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.azure_ml.sdk import Sdk

# The SDK's own copy of a YAML library says so while it checks a scoring configuration.
pytestmark = pytest.mark.filterwarnings(
    "ignore:\\s*(round_trip_dump|dump_all) will be removed:PendingDeprecationWarning"
)

SCORE = "import greets\ndef init(): pass\ndef run(data): return greets.WORD\n"
DIST = "greets-1.0.dist-info"


@pytest.fixture(scope="module")
def registry(local_site_env: dict[str, str]) -> dict[str, str]:
    """Give the module the registry of the session's site, which holds a Python base image."""
    return {
        "address": local_site_env["LOCAL_SITE_REGISTRY"],
        "user": local_site_env["LOCAL_SITE_REGISTRY_USER"],
        "password": local_site_env["LOCAL_SITE_REGISTRY_PASSWORD"],
        "ca": local_site_env["LOCAL_SITE_CA"],
        "base": "base/python:3.11-bookworm",
    }


@pytest.fixture(scope="module")
def server(registry: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureML]:
    """Give the module a server that knows the registry."""
    server = AzureML(tmp_path_factory.mktemp("azure-ml"), registry=registry)
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def model(sdk: Sdk, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the module a registered model of two files."""
    from azureml.core import Model

    folder = tmp_path_factory.mktemp("model") / "iris"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"onnx")
    (folder / "labels.txt").write_text("a b")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)  # the SDK takes files below the working directory only
        return Model.register(sdk.workspace, "iris", "iris")


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the module a scoring script, and an environment with a package that no index has."""
    from azureml.core import Environment
    from azureml.core.conda_dependencies import CondaDependencies
    from azureml.core.model import InferenceConfig

    folder = tmp_path_factory.mktemp("code")
    wheel = folder.parent / "greets-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("greets.py", "WORD = 'hello'\n")
        archive.writestr(f"{DIST}/METADATA", "Metadata-Version: 2.1\nName: greets\nVersion: 1.0\n")
        archive.writestr(f"{DIST}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{DIST}/RECORD", f"greets.py,,\n{DIST}/METADATA,,\n{DIST}/WHEEL,,\n{DIST}/RECORD,,\n")
    (folder / "score.py").write_text(SCORE)
    (folder / "helper.txt").write_text("beside the script")
    dependencies = CondaDependencies()
    dependencies.remove_pip_package("azureml-defaults")
    dependencies.set_python_version("3.11")
    dependencies.add_pip_package(f"greets @ {wheel.as_uri()}")
    environment = Environment("serving")
    environment.python.conda_dependencies = dependencies
    return InferenceConfig(entry_script="score.py", source_directory=str(folder), environment=environment)


def made(package: Any) -> Any:
    """Wait until a package is made; the SDK's own way sleeps five seconds at a time."""

    def ended() -> bool:
        package.update_creation_state()
        return package.state not in {"NotStarted", "Running"}

    wait_for(ended, "the end of the package operation")
    assert package.state == "Succeeded", package.error
    return package


def from_registry(registry: dict[str, str], path: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        session.auth = (registry["user"], registry["password"])
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        url = f"https://{registry['address']}/v2/{path}"
        answer = session.get(url, headers=accept, verify=registry["ca"], timeout=30)
        answer.raise_for_status()
        return answer


def test_a_package_is_an_image_with_the_models_the_script_and_its_requirements(
    sdk: Sdk, registry: dict[str, str], model: Any, inference: Any
) -> None:
    from azureml.core import Model

    package = Model.package(sdk.workspace, [model], inference, image_name="edge/iris", image_label="v1")
    package.wait_for_creation()
    assert package.location == f"{registry['address']}/edge/iris:v1"
    manifest = from_registry(registry, "edge/iris/manifests/v1").json()
    files: dict[str, bytes] = {}
    for layer in manifest["layers"][1:]:
        packed = from_registry(registry, f"edge/iris/blobs/{layer['digest']}").content
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
            for member in archive:
                if content := archive.extractfile(member):
                    files[member.name] = content.read()
    app = "var/azureml-app"
    source = inference.source_directory.rpartition("/")[2]
    assert files[f"{app}/azureml-models/iris/1/iris/model.onnx"] == b"onnx"
    assert files[f"{app}/{source}/score.py"].decode() == SCORE
    assert files[f"{app}/{source}/helper.txt"] == b"beside the script"
    assert files["opt/serving/site-packages/greets.py"] == b"WORD = 'hello'\n"
    config = from_registry(registry, f"edge/iris/blobs/{manifest['config']['digest']}").json()
    assert f"/{app}/{source}/score.py" in config["config"]["Entrypoint"]
    assert f"AZUREML_MODEL_DIR=/{app}/azureml-models/iris/1" in config["config"]["Env"]
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"])


def test_the_same_package_again_pushes_no_layer(sdk: Sdk, registry: dict[str, str], model: Any, inference: Any) -> None:
    from azureml.core import Model

    names = [{"image_name": "edge/same", "image_label": label} for label in ("a", "b")]
    packages = [made(Model.package(sdk.workspace, [model], inference, **name)) for name in names]
    first, second = (from_registry(registry, f"edge/same/manifests/{label}").json() for label in ("a", "b"))
    assert [layer["digest"] for layer in first["layers"][:1]] == [layer["digest"] for layer in second["layers"][:1]]
    assert first["layers"][-1] == second["layers"][-1]
    assert "already there" in packages[1].get_logs()


def test_a_build_context_is_saved_with_everything_that_a_build_needs(
    sdk: Sdk, model: Any, inference: Any, tmp_path: Path
) -> None:
    from azureml.core import Model

    package = made(Model.package(sdk.workspace, [model], inference, generate_dockerfile=True))
    package.save(str(tmp_path / "context"))
    context = tmp_path / "context"
    assert (context / "azureml-models" / "iris" / "1" / "iris" / "model.onnx").read_bytes() == b"onnx"
    source = inference.source_directory.rpartition("/")[2]
    assert (context / "app" / source / "score.py").read_text() == SCORE
    assert "greets @ file://" in (context / "requirements.txt").read_text()
    dockerfile = (context / "Dockerfile").read_text()
    assert dockerfile.startswith("FROM ")
    assert f"/{source}/score.py" in dockerfile


def test_an_image_that_cannot_be_composed_fails_the_package_and_says_why(sdk: Sdk, model: Any, inference: Any) -> None:
    from azureml.core import Environment, Model
    from azureml.core.model import InferenceConfig
    from azureml.exceptions import WebserviceException

    elsewhere = Environment("elsewhere")
    elsewhere.docker.base_image = "registry.example/base:1"
    elsewhere.python.user_managed_dependencies = True
    config = InferenceConfig("score.py", source_directory=inference.source_directory, environment=elsewhere)
    package = Model.package(sdk.workspace, [model], config)
    with pytest.raises(WebserviceException, match=r"registry\.example/base:1 is not in the registry"):
        package.wait_for_creation()
    assert "registry.example/base:1" in package.get_logs()
    elsewhere.docker.base_image = f"{sdk.server.control('GET', '/health')['workspace']}-none:1"
    with pytest.raises(WebserviceException, match="is not in the registry"):
        Model.package(sdk.workspace, [model], config).wait_for_creation()


def test_without_a_registry_a_package_fails_and_says_so(tmp_path: Path) -> None:
    server = AzureML(tmp_path)
    server.start()
    try:
        http = Http(server)
        body = {"imageRequest": {}, "packageType": "DockerImage"}
        answer = http.call("POST", "/modelmanagement/v1.0{W}/packages", json=body)
        where = answer.headers["Operation-Location"].removeprefix(server.url)

        def failed() -> Any:
            return http.call("GET", where).json().get("error")

        error = wait_for(failed, "the end of the operation")
        assert "no registry to push images to" in error["message"]
        assert error["details"] == []
    finally:
        server.end()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"packageType": "Zip"}, "BadArgument"),
        ({"packageType": None}, "BadArgument"),
        ({"imageName": "../up"}, "BadArgument"),
        ({"imageLabel": "a/b"}, "BadArgument"),
        ({"imageRequest": {"modelIds": ["none:1"]}}, "ModelNotFound"),
        ({"imageRequest": {"modelIds": [1]}}, "BadArgument"),
        ({"imageRequest": {"assets": [{"id": "x", "url": "aml://artifact/LocalUpload/none/x"}]}}, "BadArgument"),
        ({"imageRequest": {"assets": [{"id": "x", "url": "file:///etc/passwd"}]}}, "BadArgument"),
        ({"imageRequest": {"driverProgram": "none.py"}}, "BadArgument"),
        ({"imageRequest": []}, "BadArgument"),
    ],
)
def test_a_package_that_cannot_be_meant_is_refused(http: Http, change: dict[str, Any], code: str) -> None:
    body = {"imageRequest": {}, "packageType": "DockerImage", **change}
    answer = http.call("POST", "/modelmanagement/v1.0{W}/packages", data=json.dumps(body))
    assert error_of(answer)[:2] == (400, code)
