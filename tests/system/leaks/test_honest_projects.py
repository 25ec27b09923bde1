"""Honest projects pass with the default settings: linear, forest, boosted and neural models, on wide and narrow, fine and coarse data."""

from __future__ import annotations

import csv
import io
import threading
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.residency.code import stage_source
from tests.integration.edge_run.blob_server import BlobServer
from tests.integration.edge_run.conftest import SCRIPTS, Outcome, Site

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.leaks.conftest import Vm

TARGETS = {
    "breast_cancer": "diagnosis",
    "wine": "cultivar",
    "iris": "species",
    "digits": "digit",
    "diabetes": "progression",
}
BLOBS = 4


def _blobs(project: str) -> dict[str, bytes]:
    """Write scikit-learn's table of that name as a few CSV files."""
    from sklearn import datasets

    table: Any = getattr(datasets, f"load_{project}")()
    header = [str(name).replace(" ", "_") for name in table.feature_names]
    if project == "breast_cancer":
        # As the local site names them: "mean radius" and "radius error" with underscores.
        header = [name.replace("(", "").replace(")", "") for name in header]
    found = {}
    for number in range(BLOBS):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*header, TARGETS[project]])
        for features, target in zip(table.data[number::BLOBS], table.target[number::BLOBS], strict=True):
            writer.writerow([*map(_plain, features.tolist()), _plain(float(target))])
        found[f"{project}/{number}.csv"] = text.getvalue().encode()
    return found


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _run(vm: Vm, project: str, folder: Path, kind: str) -> Outcome:
    with BlobServer(*vm.tls) as store:
        thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            for name, content in _blobs(project).items():
                store.put(name, content)
            stage_source(SCRIPTS / project, SCRIPTS / "edge_run", folder / "snapshot", {"sandbox": kind})
            (folder / "home").mkdir()
            site = Site(store, folder / "home", folder / "snapshot", python=vm.python)
            return site.start(site.write_grant()["fingerprint"])
        finally:
            store.shutdown()
            thread.join()


# Each project in the sandbox that a VM usually has, and the widest variety of libraries in the others.
IN_OTHERS = [("breast_cancer", "namespaces"), ("breast_cancer", "seccomp"), ("digits", "seccomp")]


@pytest.mark.parametrize(("project", "kind"), [*((project, "bubblewrap") for project in TARGETS), *IN_OTHERS])
def test_an_honest_project_passes_whole(project: str, kind: str, vm: Vm, tmp_path: Path) -> None:
    outcome = _run(vm, project, tmp_path, kind)
    assert outcome.status == 0, outcome.log
    assert {item["verdict"] for item in outcome.record["items"]} == {"passed"}
    assert outcome.record["sandbox"]["kind"] == kind
    assert outcome.record["scan"]["method"] == "numpy"
    assert outcome.record["scan"]["row_cells"] > 0
    assert [name for name in outcome.outputs if name != "probe.json"] == ["edge_run.json", "model.onnx"]
