"""The model registry: one number per version, whatever happens around it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.azure_ml.web import Http, error_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.azure_ml.sdk import Sdk


@pytest.fixture(scope="module")
def run(sdk: Sdk, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the module a run with a model file and a model folder."""
    from azureml.core import Experiment

    folder = tmp_path_factory.mktemp("model")
    (folder / "model.onnx").write_bytes(b"onnx")
    (folder / "labels.txt").write_text("benign malignant")
    run = Experiment(sdk.workspace, "models").start_logging(snapshot_directory=None)
    run.upload_file("outputs/model.onnx", str(folder / "model.onnx"))
    run.upload_folder("outputs/whole", str(folder))
    run.complete()
    return run


def test_versions_count_up_and_carry_their_lineage(sdk: Sdk, run: Any) -> None:
    from azureml.core import Model

    first = run.register_model(
        "counted", model_path="outputs/model.onnx", tags={"site": "oslo"}, properties={"f": "sha256:1"}
    )
    second = run.register_model("counted", model_path="outputs/model.onnx", tags={"site": "bergen"})
    assert [(model.id, model.version) for model in (first, second)] == [("counted:1", 1), ("counted:2", 2)]
    found = Model(sdk.workspace, id="counted:1")
    assert (found.tags, found.properties, found.run_id) == ({"site": "oslo"}, {"f": "sha256:1"}, run.id)
    assert found.experiment_name == "models"
    assert Model(sdk.workspace, name="counted").version == 2


def test_models_are_found_by_name_tag_and_run(sdk: Sdk, http: Http, run: Any) -> None:
    from azureml.core import Model

    for number in range(3):
        run.register_model(
            "sought", model_path="outputs/model.onnx", tags={"number": str(number), "dag_run": "a=b:c+d"}
        )
    body = {"name": "paged", "url": Model(sdk.workspace, id="sought:1").url, "mimeType": "application/json"}
    token = http.token()
    for _ in range(22):
        assert http.call("POST", "/modelmanagement/v1.0{W}/models", token=token, json=body).status_code == 200
    listed = {
        "all": Model.list(sdk.workspace, name="sought"),
        "tagged": Model.list(sdk.workspace, tags=[["number", "1"]]),
        "key": Model.list(sdk.workspace, name="sought", tags=["number"]),
        "equals": Model.list(sdk.workspace, name="sought", tags=[["dag_run", "a=b:c+d"]]),
        "both": Model.list(sdk.workspace, tags=[["number", "1"], ["number", "2"]]),
        "run": Model.list(sdk.workspace, name="sought", run_id=run.id),
        "other": Model.list(sdk.workspace, name="sought", run_id="no-such-run"),
        "latest": Model.list(sdk.workspace, name="sought", latest=True),
        "paged": Model.list(sdk.workspace, name="paged", page_count=20),
    }
    versions = {key: [model.version for model in models] for key, models in listed.items()}
    assert versions == {
        "all": [3, 2, 1],
        "tagged": [2],
        "key": [3, 2, 1],
        "equals": [3, 2, 1],
        "both": [],
        "run": [3, 2, 1],
        "other": [],
        "latest": [3],
        "paged": list(range(22, 0, -1)),
    }


def test_a_model_is_downloaded_whether_it_is_a_file_or_a_folder(run: Any, tmp_path: Path) -> None:
    file = run.register_model("one-file", model_path="outputs/model.onnx").download(str(tmp_path / "file"))
    assert file == str(tmp_path / "file" / "model.onnx")
    assert (tmp_path / "file" / "model.onnx").read_bytes() == b"onnx"
    run.register_model("folder", model_path="outputs/whole").download(str(tmp_path / "folder"))
    assert sorted(path.name for path in (tmp_path / "folder").rglob("*.*")) == ["labels.txt", "model.onnx"]


def test_a_model_is_registered_from_a_local_path(sdk: Sdk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from azureml.core import Model

    monkeypatch.chdir(tmp_path)
    (tmp_path / "local.bin").write_bytes(b"local")
    model = Model.register(sdk.workspace, "local.bin", "from-here")
    model.download(str(tmp_path / "back"))
    assert (model.version, (tmp_path / "back" / "local.bin").read_bytes()) == (1, b"local")


def test_tags_are_added_and_taken_off_a_version(sdk: Sdk, run: Any) -> None:
    from azureml.core import Model

    model = run.register_model("tagged", model_path="outputs/model.onnx", tags={"a": "1"})
    model.add_tags({"champion": "yes"})
    model.remove_tags("a")
    model.add_properties({"p": "q"})
    model.update(description="the best so far")
    found = Model(sdk.workspace, id=model.id)
    assert (found.tags, found.properties, found.description) == ({"champion": "yes"}, {"p": "q"}, "the best so far")


def test_a_deleted_version_is_gone_and_its_number_is_not_given_again(sdk: Sdk, run: Any) -> None:
    from azureml.core import Model
    from azureml.exceptions import WebserviceException

    run.register_model("deleted", model_path="outputs/model.onnx").delete()
    with pytest.raises(WebserviceException, match="ModelNotFound"):
        Model(sdk.workspace, id="deleted:1")
    assert run.register_model("deleted", model_path="outputs/model.onnx").version == 2


def test_registrations_at_the_same_moment_get_different_versions(run: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        models = pool.map(lambda _: run.register_model("at-once", model_path="outputs/model.onnx"), range(8))
    assert sorted(model.version for model in models) == list(range(1, 9))


def test_a_model_of_files_that_there_are_not_is_refused(http: Http, run: Any) -> None:
    for prefix in (
        f"ExperimentRun/dcid.{run.id}/outputs/none",
        "nonsense",
        "ExperimentRun/dcid.other/outputs/model.onnx",
    ):
        body = {"name": "void", "artifacts": [{"prefix": prefix}]}
        assert error_of(http.call("POST", "/modelmanagement/v1.0{W}/assets", json=body))[:2] == (400, "BadArgument")
    body = {"name": "void", "url": "aml://asset/none", "mimeType": "application/json"}
    assert error_of(http.call("POST", "/modelmanagement/v1.0{W}/models", json=body))[:2] == (400, "BadArgument")


def test_an_environment_is_registered_once_per_definition(sdk: Sdk) -> None:
    from azureml.core import Environment

    environment = Environment("on-premises")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = "/opt/env/bin/python"
    assert environment.register(sdk.workspace).version == "1"
    assert environment.register(sdk.workspace).version == "1"
    environment.python.interpreter_path = "/opt/other/bin/python"
    assert environment.register(sdk.workspace).version == "2"
    found = Environment.get(sdk.workspace, "on-premises", "1")
    assert found.python.interpreter_path == "/opt/env/bin/python"
    assert "on-premises" in Environment.list(sdk.workspace)
