"""The code manifest against the SDK's own idea of what a snapshot carries."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from edge_training.residency.code import code_manifest, stage_source
from tests.integration.edge_run.conftest import SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

# The two functions that Experiment.submit makes the snapshot with; in a process of its own, because the import warns.
SDK_FILES = """
import sys
from azureml._base_sdk_common.merkle_tree import create_merkletree
from azureml._project.ignore_file import get_project_ignore_file

def names(node, prefix):
    for child in node.children:
        if child.is_file():
            print(prefix + child.name)
        else:
            names(child, prefix + child.name + "/")

names(create_merkletree(sys.argv[1], get_project_ignore_file(sys.argv[1]).is_file_excluded), "")
"""


def test_the_manifest_lists_exactly_what_the_sdk_would_send(tmp_path: Path) -> None:
    project = tmp_path / "proj"
    for name in ("train.py", "docs/notes.txt", "deep/er/helper.py", ".gitignore"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("*\n")
    target = tmp_path / "snapshot"
    stage_source(project, SCRIPTS / "edge_run", target)
    (target / "outputs").mkdir()
    (target / "outputs" / "late.txt").write_text("late\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SDK_FILES, str(target)], capture_output=True, text=True, check=True
    )
    listed = [file.path for file in code_manifest(target, "proj").files]
    assert sorted(done.stdout.split()) == sorted(listed)
    assert {"outputs/late.txt", "project/docs/notes.txt"} < set(listed)
