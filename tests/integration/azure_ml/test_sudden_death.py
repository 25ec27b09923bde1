"""kill -9 in the middle of a stream of calls: what was acknowledged is there, and nothing is there by half."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.integration.azure_ml.servers import AzureML
from tests.integration.azure_ml.web import Http

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A connection that is cut in its handshake is closed by the garbage collector only.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DEATHS = 4
SEED = 20261121
RUNS = "/history/v1.0{W}/experiments/sudden"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AzureML]:
    """Give the test a server to kill."""
    server = AzureML(tmp_path)
    server.start()
    yield server
    server.end()


class Client:
    """Makes one thing after the other, and remembers what was acknowledged.

    :param number: tells it from the other clients.
    """

    def __init__(self, http: Http, token: str, number: int) -> None:
        self.http = http
        self.token = token
        self.number = number
        self.tags: dict[str, str] = {}
        self.metrics: list[float] = []
        self.files: dict[str, bytes] = {}
        self.models: list[str] = []
        self.snapshots: dict[str, bytes] = {}

    def work(self, ended: threading.Event) -> int:
        """Go on until it is over, and return how many calls were acknowledged."""
        count = 0
        round_number = 0
        while not ended.is_set():
            round_number += 1
            for step in (self.tag, self.log, self.upload, self.register, self.snapshot):
                try:
                    step(round_number)
                    count += 1
                except requests.RequestException:
                    time.sleep(0.02)  # the server is dead at the moment
        return count

    def call(self, method: str, path: str, body: Any) -> Any:
        answer = self.http.call(method, path, token=self.token, json=body)
        assert answer.status_code == 200, f"{method} {path}: {answer.text}"
        return answer.json()

    def tag(self, number: int) -> None:
        self.call("PATCH", f"{RUNS}/runs/run-{self.number}", {"tags": {f"t{number}": "x"}})
        self.tags[f"t{number}"] = "x"

    def log(self, number: int) -> None:
        value = {"metricId": f"{self.number}-{number}", "data": {"loss": float(number)}}
        batch = {"name": "loss", "columns": {"loss": "Double"}, "value": [value]}
        self.call("POST", f"/metric/v2.0{{W}}/runs/run-{self.number}/batch", {"values": [batch]})
        self.metrics.append(float(number))

    def upload(self, number: int) -> None:
        name, content = f"outputs/{number}", random.Random(number).randbytes(20_000)  # noqa: S311  # no secret
        place = f"/artifact/v2.0{{W}}/artifacts/batch/metadata/ExperimentRun/dcid.run-{self.number}"
        urls = self.call("POST", place, {"paths": [{"path": name}]})["artifactContentInformation"]
        answer = requests.put(urls[name]["contentUri"], data=content, verify=self.http.verify, timeout=10)
        assert answer.status_code == 201
        self.files[name] = content

    def register(self, _number: int) -> None:
        if not self.files:
            return
        prefix = f"ExperimentRun/dcid.run-{self.number}/{next(iter(self.files))}"
        models = "/modelmanagement/v1.0{W}"
        asset = self.call("POST", f"{models}/assets", {"name": "m", "artifacts": [{"prefix": prefix}]})["id"]
        body = {"name": f"model-{self.number}", "url": f"aml://asset/{asset}", "mimeType": "x"}
        self.models.append(self.call("POST", f"{models}/models", body)["id"])

    def snapshot(self, number: int) -> None:
        content = f"{self.number} {number}".encode()
        snapshot = f"{self.number:08x}-0000-0000-0000-{number:012x}"
        uri = self.call("POST", "/content/v2.0{W}/snapshots/getblob", {"FileNames": ["a"]})["fileNodes"][0]["blobUri"]
        assert requests.put(uri, data=content, verify=self.http.verify, timeout=10).status_code == 201
        tree = {"type": "Directory", "children": {"a": {"type": "File"}}}
        nodes = {"FileNodes": [{"FullName": "a", "BlobUri": uri}]}
        self.call("POST", f"/content/v2.0{{W}}/snapshots/{snapshot}", {"DirTreeNode": tree, "FileRevisionList": nodes})
        self.snapshots[snapshot] = content


def test_what_was_acknowledged_is_there_after_sudden_deaths_and_nothing_is_there_by_half(
    server: AzureML,
) -> None:
    http = Http(server)
    http.call("POST", RUNS)
    clients = [Client(http, http.token(), number) for number in range(3)]
    for client in clients:
        client.tag(0)
    ended = threading.Event()
    moments = random.Random(SEED)  # noqa: S311  # no secret
    with ThreadPoolExecutor(len(clients)) as pool:
        counts = [pool.submit(client.work, ended) for client in clients]
        try:
            for _ in range(DEATHS):
                time.sleep(moments.uniform(0.05, 0.5))
                server.end(signal.SIGKILL)
                server.start()
        finally:
            ended.set()
        assert all(count.result() > 0 for count in counts)
    server.kill_and_restart()
    for client in clients:
        check(http, client)
    check_storage(server)


def check(http: Http, client: Client) -> None:
    """Check that everything a client was promised is there, whole."""
    token, run = client.token, f"run-{client.number}"
    tags = http.call("GET", f"{RUNS}/runs/{run}", token=token).json()["tags"]
    assert set(client.tags) <= set(tags)
    if client.metrics:
        body = {"metricName": "loss"}
        values = http.call("POST", f"/metric/v2.0{{W}}/runs/{run}/full", token=token, json=body).json()["value"]
        kept = [value["data"]["loss"] for value in values]
        assert set(client.metrics) <= set(kept)
        assert len(kept) == len(set(kept))
    listing = http.call(
        "GET", f"/artifact/v2.0{{W}}/artifacts/prefix/contentinfo/ExperimentRun/dcid.{run}/outputs", token=token
    )
    found = {one["path"]: one["contentUri"] for one in listing.json()["value"]}
    assert set(client.files) <= set(found)
    for name, uri in found.items():
        content = requests.get(uri, verify=http.verify, timeout=10).content
        assert content == random.Random(int(name.rpartition("/")[2])).randbytes(20_000), name  # noqa: S311  # no secret
    for model in client.models:
        assert http.call("GET", f"/modelmanagement/v1.0{{W}}/models/{model}", token=token).json()["id"] == model
    assert len(client.models) == len(set(client.models))
    for snapshot in client.snapshots:
        path = f"/content/v2.0{{W}}/snapshots/{snapshot}/zip"
        assert http.call("POST", path, token=token).status_code == 200


def check_storage(server: AzureML) -> None:
    """Check that the database is sound, and that what it names is on disk and what is a draft is not."""
    connection = sqlite3.connect(server.state / "state.sqlite3")
    try:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        for (files,) in connection.execute("select files from snapshots"):
            for blob in json.loads(files).values():
                assert (server.state / "blobs" / blob[:2] / blob).is_file()
        for (asset,) in connection.execute("select url from models"):
            known = connection.execute("select 1 from assets where asset_id = ?", (asset.rpartition("/")[2],))
            assert known.fetchone()
    finally:
        connection.close()
    assert list((server.state / "blob-drafts").iterdir()) == []
    assert not [path for path in (server.state / "blobs").glob("*/*") if path.name.startswith(".")]
    lines = (server.state / "journal.ndjson").read_text().splitlines()
    assert all(json.loads(line)["method"] for line in lines if line.endswith("}"))


def test_blocks_that_were_acknowledged_before_the_death_can_be_committed_after_it(server: AzureML) -> None:
    http = Http(server)
    body = {"paths": [{"path": "large"}]}
    place = "/artifact/v2.0{W}/artifacts/batch/metadata/LocalUpload/x"
    url = http.call("POST", place, json=body).json()["artifactContentInformation"]["large"]["contentUri"]
    for block in ("AAAA", "BBBB"):
        part = requests.put(f"{url}&comp=block&blockid={block}", data=block * 1000, verify=http.verify, timeout=10)
        assert part.status_code == 201
        server.kill_and_restart()
        assert requests.get(url, verify=http.verify, timeout=10).status_code == 404
    listed = "<BlockList><Latest>AAAA</Latest><Latest>BBBB</Latest></BlockList>"
    assert requests.put(f"{url}&comp=blocklist", data=listed, verify=http.verify, timeout=10).status_code == 201
    content = requests.get(url, verify=http.verify, timeout=10).content
    assert hashlib.sha256(content).digest() == hashlib.sha256(b"AAAA" * 1000 + b"BBBB" * 1000).digest()


def test_a_blob_is_replaced_only_by_who_knows_which_one_it_is(server: AzureML) -> None:
    http = Http(server)
    body = {"paths": [{"path": "guarded"}]}
    place = "/artifact/v2.0{W}/artifacts/batch/metadata/LocalUpload/x"
    url = http.call("POST", place, json=body).json()["artifactContentInformation"]["guarded"]["contentUri"]

    def put(content: bytes, **headers: str) -> requests.Response:
        return requests.put(url, data=content, headers=headers, verify=http.verify, timeout=10)

    assert put(b"none yet", **{"If-Match": "*"}).status_code == 412
    etag = put(b"first", **{"If-None-Match": "*"}).headers["ETag"]
    refused = put(b"second", **{"If-Match": '"another"'})
    assert (refused.status_code, refused.json()["error"]["code"]) == (412, "ConditionNotMet")
    assert put(b"second", **{"If-None-Match": "*"}).json()["error"]["code"] == "BlobAlreadyExists"
    assert requests.get(url, headers={"If-Match": etag}, verify=http.verify, timeout=10).content == b"first"
    assert put(b"second", **{"If-Match": etag}).status_code == 201
    assert requests.get(url, headers={"If-Match": etag}, verify=http.verify, timeout=10).status_code == 412
