"""``edge_run scan`` and ``edge_run wipe``, as the pipeline calls them over SSH: one line of JSON, a status, nothing left behind."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.edge_run.conftest import Site

ROW = ",".join(f"{number * 37.123 % 91:.3f}" for number in range(1, 13))


@pytest.fixture
def table(site: Site) -> Site:
    """A VM whose blobs have rows that can be told apart."""
    site.store.blobs.clear()
    header = ",".join(f"c{number}" for number in range(12))
    rows = [",".join(f"{(row * 12 + one) * 37.123 % 91:.3f}" for one in range(1, 13)) for row in range(200)]
    site.store.put("data/1.csv", "\n".join([header, *rows]).encode())
    return site


def _call(site: Site, *arguments: str, stdin: bytes = b"") -> tuple[int, dict[str, Any]]:
    command = [site.python, "-I", str(site.snapshot / "edge_run" / "__main__.py"), *arguments]
    done = subprocess.run(command, env=site.environment(), input=stdin, capture_output=True, check=False)
    assert done.stderr == b""
    (line,) = done.stdout.decode().splitlines()
    return done.returncode, json.loads(line)


def _scan(site: Site, *arguments: str, stdin: bytes = b"") -> tuple[int, dict[str, Any]]:
    fingerprint = site.write_grant()["fingerprint"]
    return _call(site, "scan", "--grant", str(site.grant), "--fingerprint", fingerprint, *arguments, stdin=stdin)


def test_a_snapshot_without_data_is_clean_and_the_grant_stays(table: Site) -> None:
    status, answer = _scan(table, "--tree", str(table.snapshot))
    assert (status, answer["clean"], answer["findings"]) == (0, True, [])
    assert answer["files"] > 20
    assert answer["data"]["blobs"] == 1
    assert table.remains == ["grants/one.json"]


def test_a_row_in_a_snapshot_is_found_and_not_repeated(table: Site) -> None:
    (table.snapshot / "project" / "notes.py").write_text(f'EXAMPLE = "{ROW}"\n')
    status, answer = _scan(table, "--tree", str(table.snapshot))
    assert (status, answer["clean"]) == (1, False)
    ((found,), text) = answer["findings"], json.dumps(answer)
    assert (found["file"], found["kind"]) == ("project/notes.py", "rows")
    assert not any(cell in text for cell in ROW.split(","))


def test_a_tar_stream_is_searched_without_being_written(table: Site) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in {
            "a.txt": b"nothing",
            "b.txt": ROW.encode(),
            "c.csv": table.store.blobs["data/1.csv"],
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    status, answer = _scan(table, "--tar", "-", stdin=buffer.getvalue())
    assert status == 1
    assert [(found["file"], found["kind"]) for found in answer["findings"]] == [("b.txt", "rows"), ("c.csv", "blob")]
    assert answer["files"] == 3


def test_a_name_that_is_a_row_is_found_and_not_repeated(table: Site, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ROW).write_text("")
    status, answer = _scan(table, "--tree", str(tmp_path / "tree"))
    assert status == 1
    assert [(found["file"], found["kind"]) for found in answer["findings"]] == [("", "name")]
    assert ROW not in json.dumps(answer)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--tree", "/nowhere"], "Usage"),
        ([], "Usage"),
        (["--tar", "-"], "Usage"),
        (["--tree", "/usr/share/doc/tar", "--grant", "/nowhere"], "Grant"),
    ],
)
def test_what_cannot_be_searched_is_not_clean(table: Site, arguments: list[str], code: str) -> None:
    status, answer = _scan(table, *arguments, stdin=b"not a tar archive")
    assert (status, answer["clean"], answer["error_code"]) == (2, False, code)


def test_wipe_removes_what_killed_runs_left_and_nothing_else(table: Site) -> None:
    left = table.home / ".edge-training" / "work" / "run-killed" / "data"
    left.mkdir(parents=True)
    (left / "rows.csv").write_text(ROW)
    (left.parent / "lock").touch()
    table.write_grant()
    status, answer = _call(table, "wipe")
    assert (status, answer) == (0, {"version": 1, "files": 1, "bytes": len(ROW)})
    assert table.remains == ["grants/one.json"]
    assert _call(table, "wipe") == (0, {"version": 1, "files": 0, "bytes": 0})
