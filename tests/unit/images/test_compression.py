from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ConfigurationError
from edge_training.images.compression import MEDIA_TYPES, Compression
from edge_training.images.layers import Layer, LayerFile, write_layer
from edge_training.images.media_types import digest_of
from edge_training.images.unpack import RootFolder

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


def test_zstd_without_its_package_says_what_to_install_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ConfigurationError, match="need the package 'zstandard'"):
        layer(tmp_path / "layer", "zstd")
    assert list(tmp_path.iterdir()) == []
