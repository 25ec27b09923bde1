"""Every project of this repository becomes an image that answers as its model did at training: classifiers and a regressor."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_training.deployment.probes import parse_probe
from edge_training.images.base import resolve_base
from edge_training.images.model_image import ModelImageBuilder, ServedModel, scoring_code
from edge_training.images.publish import RegistryPublisher
from edge_training.images.serving import serving_layer
from edge_training.residency.code import stage_source
from local_site import training_env
from local_site.data import blobs
from local_site.settings import Settings
from tests.integration.deployment.support import BASE

if TYPE_CHECKING:
    from tests.integration.deployment.support import Host
    from tests.integration.images.support import Registry

INCLUDE = Path(__file__).parents[3] / "include"
SCRIPTS = INCLUDE / "training_scripts"
ANSWERS = {
    "breast_cancer": {"labels", "probabilities"},
    "diabetes": {"values"},
    "digits": {"labels", "probabilities"},
    "iris": {"labels", "probabilities"},
    "wine": {"labels", "probabilities"},
}


def write_data(project: str, folder: Path) -> None:
    """Write the project's data as its script expects them: scikit-learn's table of that name."""
    folder.mkdir()
    if project == "breast_cancer":
        for name, content in blobs().items():
            if name.endswith(".csv"):
                (folder / name).write_bytes(content)
        return
    from sklearn import datasets

    table: Any = getattr(datasets, f"load_{project}")()
    rows = np.column_stack([table.data, table.target])
    np.savetxt(folder / "all.csv", rows, delimiter=",", header="x", comments="", fmt="%.10g")


def train(project: str, folder: Path) -> Path:
    """Train from a snapshot, as on a laptop, and return the folder of what came of it."""
    write_data(project, folder / "data")
    stage_source(SCRIPTS / project, SCRIPTS / "edge_run", folder / "snapshot")
    python = training_env.ensure(Settings.from_environment()) / "bin" / "python"
    done = subprocess.run(
        [str(python), "-W", "ignore", str(folder / "snapshot/project/train.py")],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "snapshot/edge_run"), "EDGE_DATA_DIR": str(folder / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "outputs"


@pytest.mark.parametrize("project", ANSWERS)
def test_a_project_without_scoring_code_of_its_own_is_served_and_answers_as_at_training(
    project: str, registry: Registry, host: Host, tmp_path: Path
) -> None:
    assert not (SCRIPTS / project / "score.py").exists()
    outputs = train(project, tmp_path)
    probe = parse_probe((outputs / "probe.json").read_bytes(), project)
    assert {frozenset(case["answer"]) for case in probe["cases"]} == {frozenset(ANSWERS[project])}
    # Answers that were all the same would tell nothing.
    assert len({json.dumps(case["answer"]) for case in probe["cases"]}) > 3
    with registry.client() as client:
        image = ModelImageBuilder(
            base=resolve_base(client, BASE, "linux/amd64"),
            serving=serving_layer(
                INCLUDE / "serving/requirements.lock", Settings.from_environment().cache / "layers", compression="gzip"
            ),
            code=scoring_code(INCLUDE / "serving", ("score.py",)),
            model=ServedModel(project, 1, outputs / "model.onnx", {}),
            scratch=tmp_path,
        ).build()
        digest = RegistryPublisher(client, f"models/{project}").publish(image, "v1").reference.digest
    found = host.run("verify", repository=f"models/{project}", digest=digest, probe=probe, requests=8)
    assert found.error is None
    assert found.value["compared"] >= 8
