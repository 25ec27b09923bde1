"""What the local site holds: the training data, and how its files and layers are written."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest

from local_site import base_image, data, files
from local_site.errors import PreparationError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def blobs() -> dict[str, bytes]:
    return data.blobs()


def test_every_patient_is_in_exactly_one_month(blobs: dict[str, bytes]) -> None:
    rows = [row for month in data.MONTHS for row in csv.reader(io.StringIO(blobs[f"{month}.csv"].decode()))]
    patients = [tuple(row) for row in rows if row[-1] != data.TARGET]
    assert len(patients) == 569
    assert len(set(patients)) == 569
    assert len(blobs) == 13


def test_every_month_has_the_columns_of_the_schema_and_both_diagnoses(blobs: dict[str, bytes]) -> None:
    schema = json.loads(blobs["schema.json"])
    names = [field["name"] for field in schema["fields"]]
    assert names[-1] == "diagnosis"
    assert len(names) == 31
    assert {field["type"] for field in schema["fields"][:-1]} == {"number"}
    assert schema["fields"][-1]["type"] == "integer"
    assert schema["missingValues"] == [""]
    for month in data.MONTHS:
        rows = list(csv.DictReader(io.StringIO(blobs[f"{month}.csv"].decode())))
        assert list(rows[0]) == names
        assert {row["diagnosis"] for row in rows} == {"0", "1"}


def test_the_data_is_the_same_every_time(blobs: dict[str, bytes]) -> None:
    assert data.blobs() == blobs


def test_the_numbers_are_those_of_scikit_learn_to_the_last_digit(blobs: dict[str, bytes]) -> None:
    from sklearn.datasets import load_breast_cancer

    rows = [row for month in data.MONTHS for row in csv.DictReader(io.StringIO(blobs[f"{month}.csv"].decode()))]
    held = sorted([*map(float, list(row.values())[:-1]), int(row["diagnosis"])] for row in rows)
    source = load_breast_cancer()
    assert held == sorted(
        [*map(float, features), int(target)] for features, target in zip(source.data, source.target, strict=True)
    )


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_its_permissions_whatever_the_umask(tmp_path: Path) -> None:
    files.write(tmp_path / "secret", "x", files.PRIVATE)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_the_tail_of_a_log_has_only_what_follows_the_offset(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\n" + "".join(f"{number}\n" for number in range(20)))
    assert files.tail(log, offset=6, lines=2) == "18\n19"
    assert files.tail(tmp_path / "none") == ""


def _tar(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def test_a_layer_is_the_same_to_the_byte_whenever_it_is_compressed(tmp_path: Path) -> None:
    content = _tar("./etc/file", b"layer" * 1_000_000)
    digest = base_image._compress(io.BytesIO(content), tmp_path / "one.gz")
    base_image._compress(io.BytesIO(content), tmp_path / "two.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    unpacked = gzip.decompress((tmp_path / "one.gz").read_bytes())
    assert digest == f"sha256:{hashlib.sha256(unpacked).hexdigest()}"


def test_a_layer_has_an_empty_dev_for_a_sandbox_to_mount_over(tmp_path: Path) -> None:
    base_image._compress(io.BytesIO(_tar("./etc/file", b"")), tmp_path / "layer.gz")
    with tarfile.open(tmp_path / "layer.gz") as archive:
        assert archive.getnames() == ["./dev", "./etc/file"]
        assert archive.getmember("./dev").isdir()


def test_an_image_whose_build_failed_is_not_kept(tmp_path: Path) -> None:
    # Stands for mmdebstrap: it writes a part of the layer and then fails.
    program = tmp_path / "mmdebstrap"
    program.write_text("#!/bin/sh\necho half\necho 'E: no such suite' >&2\nexit 25\n")
    program.chmod(0o755)
    with pytest.raises(PreparationError, match=r"ended with 25:\nE: no such suite"):
        base_image._make(tmp_path / "cache/image", [str(program)])
    assert list((tmp_path / "cache").iterdir()) == []
