from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests import memory

PLENTY = "MemTotal: 99999999 kB\nMemAvailable: 99999999 kB\n"


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(memory, "LEAST_ROOM", 1)


def told(tmp_path: Path, text: str = PLENTY) -> Path:
    file = tmp_path / "meminfo"
    file.write_text(text)
    return file


def place(tmp_path: Path) -> Path:
    folder = tmp_path / "memory"
    folder.mkdir()
    return folder


def test_temporary_files_are_in_memory_until_the_end(tmp_path: Path) -> None:
    folder = memory.move_in(place(tmp_path), told(tmp_path))
    assert folder is not None
    with tempfile.TemporaryDirectory() as made:
        assert Path(made).parent == folder
    (folder / "left").write_text("x")
    memory.move_out(folder)
    assert not folder.exists()
    assert "TMPDIR" not in os.environ
    assert Path(tempfile.gettempdir()) != folder


def test_what_somebody_has_chosen_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert memory.move_in(place(tmp_path), told(tmp_path)) is None
    assert os.environ["TMPDIR"] == str(tmp_path)


@pytest.mark.parametrize("text", ["MemTotal: 99999999 kB\nMemAvailable: 4000000 kB\n", "nothing of the kind"])
def test_a_machine_with_little_memory_uses_its_disk(tmp_path: Path, text: str) -> None:
    assert memory.move_in(place(tmp_path), told(tmp_path, text)) is None
    assert "TMPDIR" not in os.environ


def test_a_memory_with_little_room_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LEAST_ROOM", 1 << 62)
    assert memory.move_in(place(tmp_path), told(tmp_path)) is None


def test_what_a_killed_session_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    found = place(tmp_path)
    # No process has such a number.
    dead, alive, others = found / "edgetests-99999999", found / f"edgetests-{os.getppid()}", found / "edgetests-mine"
    for folder in (dead, alive, others):
        (folder / "in").mkdir(parents=True)
    own = memory.move_in(found, told(tmp_path))
    assert set(found.iterdir()) == {alive, others, own}
