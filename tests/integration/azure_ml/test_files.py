"""Snapshots, artifacts and the blobs behind them."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.integration.azure_ml.scripts import log_of
from tests.integration.azure_ml.web import Http, error_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.azure_ml.sdk import Sdk
    from tests.integration.azure_ml.servers import AzureML

LIST = "import pathlib; print(sorted((str(p), p.read_text()) for p in pathlib.Path('.').rglob('*.txt')))"
BAD_NAMES = ["../up", "/etc/passwd", "a/../../b", "a//b", "", "a\\b", "a\nb", "x" * 2000]
ARTIFACTS = "/artifact/v2.0{W}/artifacts"


def sent(server: AzureML) -> int:
    """Return how many blobs were written so far."""
    return sum(entry["method"] == "PUT" and entry["path"].startswith("/blobs/") for entry in server.journal())


def place(http: Http, name: str = "file") -> str:
    """Return a URL to write a new artifact to."""
    body = {"paths": [{"path": name}]}
    answer = http.call("POST", f"{ARTIFACTS}/batch/metadata/LocalUpload/files", json=body).json()
    return str(answer["artifactContentInformation"][name]["contentUri"])


def put(http: Http, url: str, data: bytes, **headers: str) -> requests.Response:
    return requests.put(url, data=data, headers=headers, verify=http.verify, timeout=10)


def test_only_what_changed_is_sent_and_the_run_gets_it_all(sdk: Sdk, server: AzureML, tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "a.txt").write_text("a1")
    (source / "gone.txt").write_text("gone")
    (source / "deep" / "er" / "b # ü.txt").write_text("b1")
    first = sdk.submit(source, LIST, "snapshot-1")
    (source / "a.txt").write_text("a2")
    (source / "gone.txt").unlink()
    before = sent(server)
    second = sdk.submit(source, LIST, "snapshot-2")
    assert sent(server) - before == 1
    sdk.ended(first), sdk.ended(second)
    assert log_of(first).strip() == "[('a.txt', 'a1'), ('deep/er/b # ü.txt', 'b1'), ('gone.txt', 'gone')]"
    assert log_of(second).strip() == "[('a.txt', 'a2'), ('deep/er/b # ü.txt', 'b1')]"


def test_a_snapshot_of_many_files_goes_through(sdk: Sdk, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for number in range(60):
        (source / f"{number}.txt").write_text(str(number))
    run = sdk.submit(source, "import pathlib; print(len(list(pathlib.Path('.').glob('*.txt'))))", "many-files")
    assert sdk.ended(run)["status"] == "Completed"
    assert log_of(run).strip() == "60"


def test_a_submission_with_a_snapshot_that_there_is_not_is_refused(sdk: Sdk, http: Http) -> None:
    http.call("POST", "/history/v1.0{W}/experiments/contract")
    body = {
        "Configuration": {"target": "edge-vm", "script": "x.py"},
        "SnapshotId": "00000000-1111-0000-0000-000000000000",
    }
    path = "/execution/v1.0{W}/experiments/contract/snapshotrun?runId=no-snapshot"
    assert error_of(http.call("POST", path, json=body))[:2] == (400, "SnapshotNotFound")
    assert http.call("GET", "/history/v1.0{W}/runs/no-snapshot").status_code == 404


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_snapshot_name_that_leaves_its_folder_is_refused(http: Http, name: str) -> None:
    path = "/content/v2.0{W}/snapshots"
    assert error_of(http.call("POST", f"{path}/getblob", json={"FileNames": [name]}))[:2] == (400, "BadArgument")
    tree: dict[str, Any] = {"type": "Directory", "children": {name: {"type": "File"}}}
    body = {"DirTreeNode": tree, "FileRevisionList": {"FileNodes": []}}
    snapshot = "11111111-1111-1111-1111-111111111111"
    assert error_of(http.call("POST", f"{path}/{snapshot}", json=body))[:2] == (400, "BadArgument")


def test_a_snapshot_that_lacks_a_files_content_is_refused(http: Http) -> None:
    tree = {"type": "Directory", "children": {"main.py": {"type": "File"}}}
    uri = place(http, "never-written")
    for nodes in ([], [{"FullName": "main.py", "BlobUri": uri, "FileSize": 1}]):
        body = {"DirTreeNode": tree, "FileRevisionList": {"FileNodes": nodes}}
        answer = http.call("POST", "/content/v2.0{W}/snapshots/22222222-1111-1111-1111-111111111111", json=body)
        assert (answer.status_code, "main.py" in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_an_artifact_name_that_leaves_its_container_is_refused(http: Http, name: str) -> None:
    body = {"paths": [{"path": name}]}
    answer = http.call("POST", f"{ARTIFACTS}/batch/metadata/LocalUpload/files", json=body)
    assert error_of(answer)[:2] == (400, "BadArgument")


def test_a_name_that_has_content_is_not_given_again(http: Http) -> None:
    assert put(http, place(http, "taken"), b"first", **{"x-ms-blob-type": "BlockBlob"}).status_code == 201
    answer = http.call("POST", f"{ARTIFACTS}/batch/metadata/LocalUpload/files", json={"paths": [{"path": "taken"}]})
    assert "already exists" in answer.json()["errors"]["taken"]["error"]["message"]
    assert "taken" not in answer.json()["artifacts"]


def test_a_name_without_content_can_be_asked_for_again(http: Http) -> None:
    assert urlsplit(place(http, "retried")).path == urlsplit(place(http, "retried")).path


def test_content_that_was_damaged_on_the_way_is_refused(http: Http) -> None:
    url = place(http, "damaged")
    wrong = base64.b64encode(hashlib.md5(b"meant", usedforsecurity=False).digest()).decode()
    assert error_of(put(http, url, b"arrived", **{"Content-MD5": wrong}))[:2] == (400, "Md5Mismatch")
    assert requests.get(url, verify=http.verify, timeout=10).status_code == 404


def test_a_url_that_was_changed_opens_nothing(http: Http) -> None:
    url = place(http, "signed")
    put(http, url, b"content")
    other = urlsplit(place(http, "other")).path
    changed = [
        url.replace("sp=rw", "sp=rwd"),
        url.replace(urlsplit(url).path, other),
        url.partition("?")[0],
        url.replace("se=", "se=1"),
    ]
    for wrong in changed:
        assert error_of(requests.get(wrong, verify=http.verify, timeout=10))[:2] == (403, "AuthenticationFailed"), wrong
    read = http.call("GET", f"{ARTIFACTS}/contentinfo/LocalUpload/files/signed").json()["contentUri"]
    assert error_of(put(http, read, b"overwritten"))[0] == 403
    assert requests.get(read, verify=http.verify, timeout=10).content == b"content"


def test_ranges_are_served_as_a_growing_log_is_read(http: Http) -> None:
    url = place(http, "ranges")
    put(http, url, b"0123456789")
    for wanted, status, content in (
        ("bytes=0-", 206, b"0123456789"),
        ("bytes=4-", 206, b"456789"),
        ("bytes=4-5", 206, b"45"),
        ("bytes=8-99", 206, b"89"),
        ("lines=1-2", 200, b"0123456789"),
    ):
        answer = requests.get(url, headers={"Range": wanted}, verify=http.verify, timeout=10)
        assert (answer.status_code, answer.content) == (status, content), wanted
    answer = requests.get(url, headers={"Range": "bytes=10-"}, verify=http.verify, timeout=10)
    assert error_of(answer)[:2] == (416, "InvalidRange")


def test_a_file_of_more_than_64_mib_is_sent_in_blocks_and_comes_back(sdk: Sdk, tmp_path: Path) -> None:
    from azureml.core import Experiment

    content = bytes(range(256)) * (65 * 4096)
    (tmp_path / "large").write_bytes(content)
    run = Experiment(sdk.workspace, "large").start_logging(snapshot_directory=None)
    run.upload_file("large", str(tmp_path / "large"))
    run.download_file("large", str(tmp_path / "back"))
    run.complete()
    assert (tmp_path / "back").read_bytes() == content
