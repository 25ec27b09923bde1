from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.images.compression import MEDIA_TYPES, Compression, can_unpack_zstd
from edge_training.images.layers import Layer, LayerFile, write_layer
from edge_training.images.media_types import digest_of
from edge_training.images.unpack import RootFolder
from tests.zstd_program import add_zstd_program

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"weights" * 100_000
# The digest of the layer below wherever it is made: nothing of the machine, its zlib included, goes into a plain one.
PLAIN_DIGEST = "sha256:bc9c67cdae185af6f602cdd42821669df895b1248b85fe5f30c8ef0683de5cb1"
COMPRESSIONS = ["none", "gzip", "zstd"]


def layer(target: Path, compression: Compression) -> Layer:
    files = [LayerFile.of_bytes("app/model", DATA), LayerFile.of_bytes("app/run", b"#!", executable=True)]
    return write_layer(files, target, root="app", created_by="test", compression=compression)


def test_a_plain_layer_has_the_digest_that_it_has_on_every_machine(tmp_path: Path) -> None:
    made = layer(tmp_path / "layer", "none")
    assert made.descriptor.digest == made.diff_id == PLAIN_DIGEST


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_layer_is_what_its_descriptor_says_however_it_is_packed(tmp_path: Path, compression: Compression) -> None:
    made = layer(tmp_path / "layer", compression)
    packed = made.file.read_bytes()
    assert (made.descriptor.digest, made.descriptor.size) == (digest_of(packed), len(packed))
    assert made.descriptor.media_type == MEDIA_TYPES[compression]
    assert made.diff_id == PLAIN_DIGEST
    assert (len(packed) < len(DATA)) == (compression != "none")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_layer_is_unpacked_however_it_is_packed(tmp_path: Path, compression: Compression) -> None:
    root = RootFolder(tmp_path / "root")
    root.apply(layer(tmp_path / "layer", compression).file)
    assert (root.path / "app/model").read_bytes() == DATA


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_same_files_give_the_same_layer_twice(tmp_path: Path, compression: Compression) -> None:
    assert layer(tmp_path / "1", compression).descriptor == layer(tmp_path / "2", compression).descriptor


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Take the package away, and every program; return the folder in which programs are looked for."""

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(importlib, "import_module", missing)
    programs = tmp_path_factory.mktemp("programs")
    monkeypatch.setenv("PATH", str(programs))
    return programs


def test_zstd_without_its_package_says_what_to_install_and_leaves_nothing(
    tmp_path: Path, without_package: Path
) -> None:
    with pytest.raises(ConfigurationError, match="need the package 'zstandard'"):
        layer(tmp_path / "layer", "zstd")
    assert list(tmp_path.iterdir()) == []
    assert not can_unpack_zstd()


def test_a_layer_with_zstd_is_unpacked_by_the_program_where_there_is_no_package(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made = layer(tmp_path / "layer", "zstd").file
    add_zstd_program(request.getfixturevalue("without_package"))
    assert can_unpack_zstd()
    root = RootFolder(tmp_path / "root")
    root.apply(made)
    assert (root.path / "app/model").read_bytes() == DATA


@pytest.mark.parametrize("by_program", [False, True], ids=["package", "program"])
@pytest.mark.parametrize("damage", ["cut off", "changed"])
def test_a_damaged_layer_with_zstd_is_an_error_of_the_image(
    tmp_path: Path, request: pytest.FixtureRequest, damage: str, by_program: bool
) -> None:
    made = layer(tmp_path / "layer", "zstd").file
    content = made.read_bytes()
    made.write_bytes(content[:-30] if damage == "cut off" else content[:100] + bytes(20) + content[120:])
    if by_program:
        add_zstd_program(request.getfixturevalue("without_package"))
    with pytest.raises(ImageError, match=r"Layer .* cannot be unpacked"):
        RootFolder(tmp_path / "root").apply(made)
