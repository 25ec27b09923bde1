from __future__ import annotations

import csv
import io
import zipfile
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.images import serving
from edge_training.images.wheels import download_wheels, unpack_wheel

if TYPE_CHECKING:
    from pathlib import Path

METADATA = {
    "demo-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
    "demo-1.0.dist-info/RECORD": b"",
}


def make_wheel(path: Path, files: dict[str, bytes], executable: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (0o755 if name == executable else 0o644) << 16
            archive.writestr(member, data)
    return path


def unpack(path: Path) -> dict[str, tuple[bytes, bool]]:
    with zipfile.ZipFile(path) as archive:
        placed = unpack_wheel(archive, site_packages="opt/s/lib", prefix="opt/s")
        return {file.path: (file.open().read(), file.executable) for file in placed}


def test_each_scheme_of_a_wheel_goes_to_its_place(tmp_path: Path) -> None:
    files = {
        "demo/__init__.py": b"1",
        "demo/lib.so": b"2",
        "demo-1.0.data/purelib/pure.py": b"3",
        "demo-1.0.data/platlib/plat.so": b"4",
        "demo-1.0.data/data/share/d.txt": b"5",
        "demo-1.0.data/headers/h.h": b"6",
        "demo-1.0.data/scripts/run": b"#!python\nprint(7)\n",
        "demo-1.0.data/scripts/other": b"#!/bin/sh\n",
        "demo-1.0.dist-info/entry_points.txt": b"[console_scripts]\nTool = demo.cli:App.main [extra]\n",
        **METADATA,
    }
    got = unpack(make_wheel(tmp_path / "demo-1.0-py3-none-any.whl", files, "demo/lib.so"))
    assert got["opt/s/lib/demo/__init__.py"] == (b"1", False)
    assert got["opt/s/lib/demo/lib.so"] == (b"2", True)
    assert got["opt/s/lib/pure.py"] == (b"3", False)
    assert got["opt/s/lib/plat.so"] == (b"4", False)
    assert got["opt/s/share/d.txt"] == (b"5", False)
    assert got["opt/s/bin/run"] == (b"#!/usr/bin/env python3\nprint(7)\n", True)
    assert got["opt/s/bin/other"] == (b"#!/bin/sh\n", True)
    tool = b"#!/usr/bin/env python3\nimport sys\nfrom demo.cli import App\nsys.exit(App.main())\n"
    assert got["opt/s/bin/Tool"] == (tool, True)
    assert not [path for path in got if path.endswith("h.h")]


def test_the_record_lists_every_installed_file_and_nothing_of_this_machine(tmp_path: Path) -> None:
    own = b"demo/__init__.py,sha256=a4ayc_80_OGda4BO_1o_V0etpOqiLx1JwB5S3beHW0s,1\n"
    files = {"demo/__init__.py": b"1", **METADATA, "demo-1.0.dist-info/RECORD": own}
    got = unpack(make_wheel(tmp_path / "demo-1.0-py3-none-any.whl", files))
    record, _ = got["opt/s/lib/demo-1.0.dist-info/RECORD"]
    rows = {name: digest for name, digest, _ in csv.reader(io.StringIO(record.decode()))}
    assert set(rows) == {path.removeprefix("opt/s/lib/") for path in got}
    assert rows["demo/__init__.py"] == "sha256=a4ayc_80_OGda4BO_1o_V0etpOqiLx1JwB5S3beHW0s"
    assert rows["demo-1.0.dist-info/METADATA"].startswith("sha256=")
    assert str(tmp_path) not in record.decode()


@pytest.mark.parametrize("name", ["../escaped.py", "/etc/escaped", "demo-1.0.data/data/../../escaped"])
def test_a_member_that_leads_out_of_the_wheel_is_refused(tmp_path: Path, name: str) -> None:
    wheel = make_wheel(tmp_path / "demo-1.0-py3-none-any.whl", {name: b"x", **METADATA})
    with pytest.raises(ImageError, match="leads out of it"):
        unpack(wheel)


@pytest.mark.parametrize("name", ["demo-1.0.data/unknown/f", "demo-1.0.data/scripts"])
def test_an_unknown_scheme_is_refused(tmp_path: Path, name: str) -> None:
    wheel = make_wheel(tmp_path / "demo-1.0-py3-none-any.whl", {name: b"x", **METADATA})
    with pytest.raises(ImageError, match="none of a wheel's schemes"):
        unpack(wheel)


def test_an_archive_without_metadata_is_no_wheel(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is not a wheel"):
        unpack(make_wheel(tmp_path / "demo.whl", {"demo/__init__.py": b""}))


def test_a_missing_lock_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="run 'make lock'"):
        serving.serving_layer(tmp_path / "none.lock", tmp_path / "cache")


def test_an_unknown_platform_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("")
    with pytest.raises(ConfigurationError, match="known are linux/amd64, linux/arm64"):
        download_wheels(tmp_path / "lock", tmp_path, platform="windows/amd64", python="3.11")


def test_a_wheel_that_does_not_have_the_lock_s_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = local_lock(tmp_path, monkeypatch, digest="0" * 64)
    with pytest.raises(ImageError, match="could not download"):
        serving.serving_layer(lock, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_layer_is_made_once_per_lock_and_repaired_when_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, cache = local_lock(tmp_path, monkeypatch), tmp_path / "cache"
    first = serving.serving_layer(lock, cache)
    made = first.file.stat().st_mtime_ns
    assert serving.serving_layer(lock, cache) == first
    assert first.file.stat().st_mtime_ns == made
    first.file.write_bytes(b"torn")
    assert serving.serving_layer(lock, cache) == first
    assert first.file.stat().st_size == first.descriptor.size
    lock.write_text(lock.read_text() + "# another lock\n")
    assert serving.serving_layer(lock, cache).file != first.file
    assert first.descriptor.digest == serving.serving_layer(lock, tmp_path / "elsewhere").descriptor.digest


def local_lock(folder: Path, monkeypatch: pytest.MonkeyPatch, digest: str = "") -> Path:
    """Write a wheel, and a lock that names it; pip looks for it in this folder and nowhere else."""
    import hashlib

    wheel = make_wheel(
        folder / "demo-1.0-py3-none-any.whl",
        {"demo/__init__.py": b"1", **METADATA, "demo-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\n"},
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    lock = folder / "requirements.lock"
    lock.write_text(f"demo==1.0 --hash=sha256:{digest or hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return lock
