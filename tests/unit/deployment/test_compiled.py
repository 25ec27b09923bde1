from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.deployment.host import compiled
from edge_training.deployment.host.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

PYC = "one.cpython-311.pyc"
RUN = {"Entrypoint": ["python3"]}


def folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / f"{name}.py").write_text(content)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a root with a compiled module."""
    pycache = folder(folder(tmp_path / "source" / "a", one="1") / "__pycache__")
    (pycache / PYC).write_bytes(b"compiled")
    return tmp_path / "source"


def has_the_same(source: Path, target: Path) -> None:
    os.link(source / "a/one.py", target / "one.py")


def test_a_root_gets_the_compiled_modules_of_sources_that_are_the_same(source: Path, tmp_path: Path) -> None:
    has_the_same(source, folder(tmp_path / "target/a"))
    compiled.link(source, tmp_path / "target")
    assert (tmp_path / "target/a/__pycache__" / PYC).samefile(source / "a/__pycache__" / PYC)


def test_a_source_that_only_has_the_same_name_gets_nothing(source: Path, tmp_path: Path) -> None:
    folder(tmp_path / "target/a", one="1")
    compiled.link(source, tmp_path / "target")
    assert list((tmp_path / "target").rglob("*.pyc")) == []


def test_what_is_there_already_stays(source: Path, tmp_path: Path) -> None:
    has_the_same(source, folder(tmp_path / "target/a"))
    own = folder(tmp_path / "target/a/__pycache__") / PYC
    own.write_bytes(b"its own")
    compiled.link(source, tmp_path / "target")
    assert own.read_bytes() == b"its own"


@pytest.mark.parametrize("linked", ["a", "a/__pycache__"])
def test_nothing_is_written_through_a_link_out_of_the_root(source: Path, tmp_path: Path, linked: str) -> None:
    outside = folder(tmp_path / "outside")
    target = folder(tmp_path / "target")
    has_the_same(source, outside if linked == "a" else folder(target / "a"))
    (target / linked).symlink_to(outside)
    compiled.link(source, target)
    assert list(outside.rglob("*.pyc")) == []


def made_by_the_command(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the image's command have compiled a module, without a sandbox."""

    def run(_command: Any, _kind: Any) -> None:
        (own,) = scratch.glob("making-*")
        (folder(own / "compiled/a") / PYC).write_bytes(b"compiled")

    monkeypatch.setattr(compiled, "_run", run)


def test_a_home_that_is_behind_a_link_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "real/root/a", one="1")
    (tmp_path / "home").symlink_to(tmp_path / "real")
    made_by_the_command(scratch := folder(tmp_path / "scratch"), monkeypatch)
    assert compiled.run_and_keep("bubblewrap", RUN, tmp_path / "home/root", scratch) == 1
    assert (tmp_path / "real/root/a/__pycache__" / PYC).read_bytes() == b"compiled"
    assert list(scratch.iterdir()) == []


def test_a_full_disk_is_told_and_no_half_written_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "root/a", one="1")
    made_by_the_command(scratch := folder(tmp_path / "scratch"), monkeypatch)

    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(HostError, match="No space left on device") as caught:
        compiled.run_and_keep("bubblewrap", RUN, tmp_path / "root", scratch)
    assert caught.value.retryable
    assert list(scratch.iterdir()) == []
