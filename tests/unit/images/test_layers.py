from __future__ import annotations

import io
import os
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ImageError
from edge_training.images.layers import LayerFile, write_layer
from edge_training.images.media_types import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def sources(folder: Path, *, moment: float) -> Iterator[LayerFile]:
    """Write the same two files with a time and a mode of their own, and yield them in another order each time."""
    folder.mkdir()
    for name, data in (("a/z.py", b"print(1)\n"), ("model.bin", bytes(range(256)) * 5000)):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        os.utime(file, (moment, moment))
        file.chmod(0o600 if moment < 1e9 else 0o644)
    names = ["a/z.py", "model.bin"]
    for name in names if moment < 1e9 else reversed(names):
        yield LayerFile.of_path(f"opt/app/{name}", folder / name)


def test_the_same_files_give_the_same_layer_in_another_folder_at_another_time(tmp_path: Path) -> None:
    first = write_layer(sources(tmp_path / "1", moment=5e8), tmp_path / "1.gz", root="opt/app", created_by="x")
    time.sleep(1.1)  # a gzip header could carry the second in which it was written
    second = write_layer(sources(tmp_path / "2", moment=1.6e9), tmp_path / "2.gz", root="opt/app", created_by="x")
    assert (tmp_path / "1.gz").read_bytes() == (tmp_path / "2.gz").read_bytes()
    assert first.descriptor == second.descriptor
    assert first.diff_id == second.diff_id


def test_a_changed_byte_gives_another_digest(tmp_path: Path) -> None:
    digests = {
        write_layer([LayerFile.of_bytes("a/f", data)], tmp_path / "l", root="a", created_by="").descriptor.digest
        for data in (b"1", b"2")
    }
    assert len(digests) == 2


def test_digest_size_and_diff_id_are_those_of_what_was_written(tmp_path: Path) -> None:
    layer = write_layer([LayerFile.of_bytes("a/b/f", b"data")], tmp_path / "l.gz", root="a/b", created_by="")
    packed = layer.file.read_bytes()
    assert layer.descriptor.size == len(packed)
    assert layer.descriptor.digest == digest_of(packed)
    import gzip

    assert layer.diff_id == digest_of(gzip.decompress(packed))


def test_folders_above_the_root_are_left_to_the_base_image(tmp_path: Path) -> None:
    files = [LayerFile.of_bytes("var/app/x/f", b"1", executable=True), LayerFile.of_bytes("var/app/g", b"2")]
    layer = write_layer(files, tmp_path / "l.gz", root="var/app", created_by="")
    with tarfile.open(layer.file) as tar:
        members = {member.name: (member.mode, member.uid, member.gid, member.mtime) for member in tar}
    assert members == {
        "var/app": (0o755, 0, 0, 0),
        "var/app/g": (0o644, 0, 0, 0),
        "var/app/x": (0o755, 0, 0, 0),
        "var/app/x/f": (0o755, 0, 0, 0),
    }


@pytest.mark.parametrize("path", ["etc/passwd", "a/../../etc/passwd", "/a/f", "a//f", "ab/f"])
def test_a_path_that_leads_out_of_the_root_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ImageError, match="leads somewhere else"):
        write_layer([LayerFile.of_bytes(path, b"")], tmp_path / "l", root="a", created_by="")
    assert list(tmp_path.iterdir()) == []


def test_two_files_of_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="Two files"):
        write_layer(
            [LayerFile.of_bytes("a/f", b"1"), LayerFile.of_bytes("a/f", b"2")], tmp_path / "l", root="a", created_by=""
        )


@pytest.mark.parametrize(("said", "message"), [(10, "cannot be read to its end"), (3, "grew while it was read")])
def test_a_file_that_changes_while_it_is_read_leaves_no_layer(tmp_path: Path, said: int, message: str) -> None:
    file = LayerFile("a/f", said, lambda: io.BytesIO(b"12345"))
    with pytest.raises(ImageError, match=message):
        write_layer([file], tmp_path / "l", root="a", created_by="")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"model\.onnx' is to become /a/f"):
        LayerFile.of_path("a/f", tmp_path / "model.onnx")
