"""The real training project on the real data, in the real sandbox, with the VM's own environment."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.deployment.host.ask import differences
from edge_training.deployment.probes import PROBE_FILE, parse_probe
from edge_training.residency.code import stage_source
from local_site import training_env
from local_site.data import blobs
from local_site.settings import Settings
from tests.integration.edge_run.conftest import SCRIPTS, Site

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.edge_run.blob_server import BlobServer

ANSWER = """
import json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
inputs, outputs = session.get_inputs(), session.get_outputs()
rows = numpy.loadtxt(sys.argv[2], delimiter=",", skiprows=1, dtype=numpy.float32)
label, probabilities = session.run(["label", "probabilities"], {"features": rows[:, :-1]})
print(json.dumps({
    "inputs": [[i.name, i.type, i.shape] for i in inputs],
    "outputs": [[o.name, o.type, o.shape] for o in outputs],
    "metadata": session.get_modelmeta().custom_metadata_map,
    "right": int((label == rows[:, -1]).sum()),
    "rows": len(rows),
    "sums": float(numpy.abs(probabilities.sum(axis=1) - 1).max()),
}))
"""

SCORE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import score
score.init()
print(json.dumps([score.run(request) for request in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def python() -> str:
    """The training VM's interpreter."""
    return str(training_env.ensure(Settings.from_environment()) / "bin" / "python")


@pytest.fixture
def project(store: BlobServer, tmp_path: Path, python: str) -> Site:
    """A VM with the breast cancer project and its data."""
    store.blobs.clear()
    for name, content in blobs().items():
        if name.endswith(".csv"):
            store.put(f"breast-cancer/{name}", content)
    stage_source(SCRIPTS / "breast_cancer", SCRIPTS / "edge_run", tmp_path / "snapshot")
    (tmp_path / "home").mkdir()
    return Site(store, tmp_path / "home", tmp_path / "snapshot", python=python)


def _metrics(log: str) -> dict[str, list[float]]:
    metrics: dict[str, list[float]] = {}
    for line in log.splitlines():
        if line.startswith("metric | "):
            name, _, value = line.removeprefix("metric | ").partition(" = ")
            metrics.setdefault(name, []).append(float(value.split()[0]))
    return metrics


def test_it_trains_a_good_portable_model_and_leaves_nothing_else(project: Site, python: str, tmp_path: Path) -> None:
    outcome = project.start(project.write_grant()["fingerprint"])
    assert outcome.status == 0, outcome.log
    metrics = _metrics(outcome.log)
    assert metrics["n_train"][0] + metrics["n_test"][0] == 569
    assert metrics["accuracy"][-1] > 0.93
    assert metrics["roc_auc"][-1] > 0.97
    assert {"f1", "log_loss", "c"} < set(metrics)
    assert len(metrics["cv_roc_auc"]) > 3
    assert {item["verdict"] for item in outcome.record["items"]} == {"passed"}
    assert outcome.record["bytes_out"] < 10_000
    assert outcome.outputs == ["edge_run.json", "model.onnx", "probe.json"]
    assert project.remains == []
    _assert_probed(python, project.snapshot / "outputs")
    _assert_portable(python, project.snapshot / "outputs" / "model.onnx", project, tmp_path)


def _assert_probed(python: str, outputs: Path) -> None:
    """The recorded answers are those that the scoring code gives, they differ from each other, and no number is the data's."""
    probe = parse_probe((outputs / PROBE_FILE).read_bytes(), "the run")
    requests = [json.dumps(case["request"]) for case in probe["cases"]]
    done = subprocess.run(
        [python, "-c", SCORE, str(SCRIPTS.parent / "serving")],
        env={"AZUREML_MODEL_DIR": str(outputs)},
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    for case, answer in zip(probe["cases"], answers, strict=True):
        assert not differences(case["answer"], answer, **probe["tolerance"])
    assert {answer["labels"][0] for answer in answers} == {0, 1}
    assert len({answer["probabilities"][0][0] for answer in answers}) == len(answers)


def _assert_portable(python: str, model: Path, project: Site, folder: Path) -> None:
    """Ask the model in another process, with nothing but onnxruntime."""
    (folder / "rows.csv").write_bytes(project.store.blobs["breast-cancer/2026-10.csv"])
    command = [python, "-c", ANSWER, str(model), str(folder / "rows.csv")]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    ((name, kind, shape),) = answer["inputs"]
    assert (name, kind, shape[1]) == ("features", "tensor(float)", 30)
    assert [output[:2] for output in answer["outputs"]] == [
        ["label", "tensor(int64)"],
        ["probabilities", "tensor(float)"],
    ]
    assert json.loads(answer["metadata"]["columns"])[:2] == ["mean_radius", "mean_texture"]
    assert answer["right"] / answer["rows"] > 0.9
    assert answer["sums"] < 1e-5


def test_the_same_data_gives_the_same_model_to_the_byte_in_a_run_and_on_a_laptop(
    project: Site, python: str, tmp_path: Path
) -> None:
    assert project.start(project.write_grant()["fingerprint"]).status == 0
    data = tmp_path / "mine"
    data.mkdir()
    for name, content in project.store.blobs.items():
        (data / name.rpartition("/")[2]).write_bytes(content)
    done = subprocess.run(
        [python, str(SCRIPTS / "breast_cancer" / "train.py")],
        cwd=tmp_path,
        env={
            "PYTHONPATH": f"{SCRIPTS / 'edge_run'}:{SCRIPTS / 'shared'}",
            "EDGE_DATA_DIR": str(data),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not inside a run" in done.stderr
    assert (tmp_path / "outputs" / "model.onnx").read_bytes() == (
        project.snapshot / "outputs" / "model.onnx"
    ).read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            b"mean_radius",
            b"mean_radios",
            "2026-10.csv has another header: missing ['mean_radius'], unexpected ['mean_radios']",
        ),
        (b"\n1", b"\nx1", "2026-10.csv has a value that is not a number"),
    ],
)
def test_data_that_is_not_as_expected_fails_naming_the_file_and_no_value(
    project: Site, old: bytes, new: bytes, complaint: str
) -> None:
    name = "breast-cancer/2026-10.csv"
    content = project.store.blobs[name]
    project.store.put(name, content.replace(old, new, 1))
    outcome = project.start(project.write_grant()["fingerprint"])
    assert outcome.status == 1
    assert complaint in outcome.log
    cells = {cell for row in content.decode().splitlines()[1:] for cell in row.split(",") if len(cell) > 4}
    assert [cell for cell in cells if cell in outcome.log] == []


def test_an_unknown_parameter_is_named(project: Site) -> None:
    outcome = project.start(project.write_grant()["fingerprint"], "--param", "epochs=3")
    assert outcome.status == 1
    assert (
        "train.py does not know the parameters ['epochs']; known are ['folds', 'max_iterations', 'seed'" in outcome.log
    )
