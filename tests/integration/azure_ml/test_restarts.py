"""The whole flow, with the server killed between any two calls. ``make test-azure-ml-restarts`` does that to every test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.azure_ml.scripts import log_of
from tests.integration.azure_ml.servers import AzureML

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.azure_ml.sdk import Sdk

SCRIPT = """
import pathlib
from azureml.core import Run
run = Run.get_context()
run.log_list("losses", [3, 2, 1])
run.flush()
run.tag("reported", "yes")
pathlib.Path("outputs").mkdir()
pathlib.Path("outputs/model.bin").write_bytes(b"model")
print("reported", flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureML]:
    """Give the module a server that dies after each call."""
    server = AzureML(tmp_path_factory.mktemp("azure-ml"), restarts=True)
    server.start()
    yield server
    server.end()


def test_a_run_is_submitted_followed_and_its_model_registered_though_the_server_dies_after_each_call(
    sdk: Sdk, server: AzureML, tmp_path: Path
) -> None:
    from azureml.core import Environment, Model

    run = sdk.submit(tmp_path / "src", SCRIPT, "through-deaths", tags={"site": "oslo"})
    assert sdk.ended(run)["status"] == "Completed", log_of(run)
    assert log_of(run) == "reported\n"
    assert run.get_metrics() == {"losses": [3, 2, 1]}
    assert run.get_tags() == {"site": "oslo", "reported": "yes"}
    model = run.register_model("through-deaths", model_path="outputs/model.bin", tags={"a": "b"})
    assert [found.version for found in Model.list(sdk.workspace, name="through-deaths")] == [1]
    model.add_tags({"c": "d"})
    model.download(str(tmp_path / "back"))
    assert (tmp_path / "back" / "model.bin").read_bytes() == b"model"
    assert Model(sdk.workspace, id=model.id).tags == {"a": "b", "c": "d"}
    assert Environment("through-deaths").register(sdk.workspace).version == "1"
    package = Model.package(sdk.workspace, [model], generate_dockerfile=True, inference_config=_inference(tmp_path))
    package.wait_for_creation()
    package.save(str(tmp_path / "context"))
    assert (tmp_path / "context" / "Dockerfile").is_file()
    assert server.log.read_text().count("killed after") > 25


def _inference(folder: Path) -> Any:
    from azureml.core import Environment
    from azureml.core.model import InferenceConfig

    (folder / "code").mkdir()
    (folder / "code" / "score.py").write_text("def init(): pass\ndef run(data): return data\n")
    environment = Environment("serving")
    environment.python.user_managed_dependencies = True
    environment.python.conda_dependencies = None
    return InferenceConfig("score.py", source_directory=str(folder / "code"), environment=environment)
