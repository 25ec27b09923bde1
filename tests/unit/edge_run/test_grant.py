"""A grant is used only when it is exactly the permission that this run was promised."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from edge_run.errors import GrantError
from edge_run.grant import GrantedBlob, fingerprint_of, parse_grant, read_grant
from edge_training.grants import grant_content
from edge_training.records import BlobItem, BlobManifest

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECRET = "sig=verysecret"


def _manifest() -> BlobManifest:
    names = ("a/é.csv", "a/1.csv")
    items = [BlobItem(name, 3, '"0x1"', "sha256:" + "0" * 64, "2026-11-20T00:00:00Z") for name in sorted(names)]
    return BlobManifest("https://127.0.0.1:1/acct", "training-data", "a/", ("x", "y"), tuple(items))


def _grant(**changes: Any) -> bytes:
    def sign(name: str) -> str:
        return f"https://127.0.0.1:1/acct/training-data/{len(name)}?{SECRET}"

    content = grant_content(
        _manifest(), sign, NOW + timedelta(hours=1), dag_run=("dag", "run"), api_version="2019-07-07", ca_pem=""
    )
    return json.dumps({**json.loads(content), **changes}).encode()


def _blob(**changes: Any) -> list[dict[str, Any]]:
    blob: dict[str, Any] = json.loads(_grant())["blobs"][0]
    return [{**blob, **changes}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "grant.json"
    file.touch(mode=0o600)
    file.write_bytes(_grant())
    return file


def test_the_grant_that_the_pipeline_writes_is_understood(path: Path) -> None:
    grant = read_grant(path, _manifest().fingerprint, NOW)
    assert [blob.name for blob in grant.blobs] == ["a/1.csv", "a/é.csv"]
    assert (grant.total_bytes, grant.api_version, grant.columns) == (6, "2019-07-07", ("x", "y"))


def test_runner_and_pipeline_compute_the_same_fingerprint(path: Path) -> None:
    blobs = read_grant(path, _manifest().fingerprint, NOW).blobs
    assert fingerprint_of(blobs) == _manifest().fingerprint


def test_a_grant_for_other_data_is_refused(path: Path) -> None:
    with pytest.raises(GrantError, match="the run was submitted for sha256:ffff"):
        read_grant(path, "sha256:" + "f" * 64, NOW)


def test_an_expired_grant_is_refused(path: Path) -> None:
    with pytest.raises(GrantError, match=r"expired at 2026-11-21T13:00:00\+00:00.*clock"):
        read_grant(path, _manifest().fingerprint, NOW + timedelta(hours=1))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_a_grant_that_others_may_read_or_write_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(GrantError, match=f"mode {mode:04o}.*expected 0600"):
        read_grant(path, _manifest().fingerprint, NOW)


def test_a_missing_grant_says_what_to_clear(path: Path) -> None:
    path.unlink()
    with pytest.raises(GrantError, match=r"cannot be read.*Clear the task that grants data access"):
        read_grant(path, _manifest().fingerprint, NOW)


def test_a_link_instead_of_a_grant_is_refused(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(path)
    with pytest.raises(GrantError, match="cannot be read"):
        read_grant(link, _manifest().fingerprint, NOW)


def test_a_folder_instead_of_a_grant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GrantError, match="cannot be read"):
        read_grant(tmp_path, _manifest().fingerprint, NOW)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "not JSON"),
        (b"[]", "version None"),
        (_grant(version=2), "version 2, this runner understands 1"),
        (_grant(ca_pem=None), "'ca_pem' is missing"),
        (_grant(columns="x"), "'columns' is missing or not a list"),
        (_grant(expires="soon"), "not an ISO 8601 time"),
        (_grant(expires="2026-11-21T12:00:00"), "no time zone"),
        (_grant(blobs=[]), "names 0 blobs"),
        (_grant(blobs=_blob() * 2), "names 2 blobs, 1 of them different"),
        (_grant(blobs=_blob(size=-1)), "not a number of bytes"),
        (_grant(blobs=_blob(size=True)), "not a number of bytes"),
        (_grant(blobs=_blob(size=4)), "do not add up"),
        (_grant(blobs=_blob(name="../x")), "cannot be a file's name"),
        (_grant(blobs=_blob(name="/etc/passwd")), "cannot be a file's name"),
        (_grant(blobs=_blob(name="a\nb")), "cannot be a file's name"),
        (_grant(blobs=[*_blob(name="a"), *_blob(name="a/b")]), "also the folder of another"),
        (_grant(blobs=_blob(url=f"http://host/x?{SECRET}")), "not an https URL"),
        (_grant(blobs=_blob(url=f"https://host/x y?{SECRET}")), "not an https URL"),
        (_grant(blobs=_blob(content_hash="crc:1")), "neither sha256"),
    ],
)
def test_a_damaged_grant_is_refused_without_repeating_its_credential(content: bytes, complaint: str) -> None:
    with pytest.raises(GrantError, match=complaint) as caught:
        parse_grant(content)
    assert SECRET not in str(caught.value)


def test_a_blob_does_not_show_its_credential_when_it_is_printed() -> None:
    blob = GrantedBlob("a.csv", f"https://host/a.csv?{SECRET}", 3, '"0x1"', "md5:" + "0" * 32)
    assert "secret" not in f"{blob} {blob!r} {[blob]}"
