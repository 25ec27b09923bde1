"""Nothing of a run stays on the VM, not even of one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edge_run.errors import DataError
from edge_run.workspace import Wiped, open_workspace

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys, time
from pathlib import Path
from edge_run.workspace import open_workspace
workspace, _ = open_workspace(Path(sys.argv[1]))
(workspace.data / "rows.csv").write_text("private")
print("ready", flush=True)
time.sleep(600)
"""


def _hold(home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(home)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_workspace_is_private(tmp_path: Path) -> None:
    workspace, _ = open_workspace(tmp_path)
    for folder in (workspace.root, workspace.data, workspace.scratch, workspace.output):
        assert folder.stat().st_mode & 0o777 == 0o700
    workspace.wipe()


def test_wiping_removes_everything_and_counts_it(tmp_path: Path) -> None:
    workspace, _ = open_workspace(tmp_path)
    (workspace.data / "a.csv").write_bytes(b"12345")
    (workspace.scratch / "deep" / "er").mkdir(parents=True)
    (workspace.scratch / "deep" / "er" / "b").write_bytes(b"123")
    (workspace.scratch / "link").symlink_to(tmp_path)
    (workspace.scratch / "deep").chmod(0)
    wiped = workspace.wipe()
    assert wiped.files == 3
    assert not workspace.root.exists()
    assert tmp_path.exists()


def test_a_run_that_was_killed_is_cleaned_up_by_the_next_one(tmp_path: Path) -> None:
    _end(_hold(tmp_path))
    workspace, remains = open_workspace(tmp_path)
    assert remains == Wiped(files=1, bytes=len("private"))
    assert list(tmp_path.rglob("rows.csv")) == []
    workspace.wipe()


def test_a_run_that_still_lives_is_left_alone(tmp_path: Path) -> None:
    other = _hold(tmp_path)
    try:
        workspace, remains = open_workspace(tmp_path)
        assert remains == Wiped()
        assert len(list(tmp_path.rglob("rows.csv"))) == 1
        workspace.wipe()
    finally:
        _end(other)


def test_a_disk_that_is_too_small_is_named_with_what_is_needed(tmp_path: Path) -> None:
    workspace, _ = open_workspace(tmp_path)
    with pytest.raises(DataError, match=r"MB free where runs work, but the data needs 2000000000 MB"):
        workspace.require_space(10**15)
    workspace.wipe()
