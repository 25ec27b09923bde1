from __future__ import annotations

import gzip
import json
import pickle
import zipfile
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ImageError
from edge_training.images.model_file import check_model_file
from tests.unit.images.models import TINY_ONNX

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.onnx", TINY_ONNX),
        ("model.ONNX", TINY_ONNX),
        ("model.pkl", pickle.dumps({"a": 1})),
        ("model.joblib", gzip.compress(pickle.dumps([1]), mtime=0)),
        ("model.json", b'  {"learner": {}}'),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(20)),
        ("model.weights", b"anything"),
    ],
)
def test_a_model_that_is_what_its_extension_says_is_let_through(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    check_model_file(tmp_path / name)


def test_an_archive_is_let_through_under_the_names_that_archives_have(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("data.pkl", b"x")
    check_model_file(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.onnx", b""),
        ("model.onnx", TINY_ONNX[:-1]),
        ("model.onnx", TINY_ONNX + b"\x3a"),
        ("model.onnx", b"\x08\x08"),
        ("model.onnx", pickle.dumps({"a": 1})),
        ("model.onnx", json.dumps({"a": 1}).encode()),
        ("model.onnx", b"<html>404 not found</html>"),
        ("model.pkl", TINY_ONNX),
        ("model.pkl", b"age,diagnosis\n42,1\n"),
        ("model.json", b"age,diagnosis\n42,1\n"),
        ("model.pt", b"version https://git-lfs.github.com/spec/v1\n"),
        ("model.bin", b""),
    ],
)
def test_a_model_that_is_something_else_or_not_all_of_it_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match="Check what the training script saves") as caught:
        check_model_file(tmp_path / name)
    assert f"'{name}'" in str(caught.value)
    assert not caught.value.retryable


def test_the_cut_off_beginning_of_a_model_is_never_taken_for_the_model(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    for length in range(len(TINY_ONNX)):
        file.write_bytes(TINY_ONNX[:length])
        with pytest.raises(ImageError):
            check_model_file(file)
