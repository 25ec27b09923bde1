"""Modules that all projects share travel with each, as files of the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_training.residency.code import stage_source

if TYPE_CHECKING:
    from pathlib import Path


def test_shared_modules_lie_beside_the_script_and_a_project_s_own_file_wins(tmp_path: Path) -> None:
    for name, text in {
        "scripts/edge_run/__main__.py": "",
        "scripts/shared/common.py": "shared",
        "scripts/shared/both.py": "shared",
        "scripts/proj/both.py": "own",
        "scripts/proj/train.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    stage_source(tmp_path / "scripts/proj", tmp_path / "scripts/edge_run", tmp_path / "snapshot")
    project = tmp_path / "snapshot" / "project"
    assert sorted(path.name for path in project.iterdir()) == ["both.py", "common.py", "train.py"]
    assert (project / "both.py").read_text() == "own"
    assert (project / "common.py").read_text() == "shared"
