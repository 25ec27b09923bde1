"""Whatever a client sends, it gets an error in Azure's shape, and nothing is written."""

from __future__ import annotations

import json
import re
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
import requests

from local_site.azure_ml.app import LARGEST_BODY, all_routes
from local_site.azure_ml.settings import kept_settings
from tests.integration.azure_ml.web import Http, error_of

if TYPE_CHECKING:
    from tests.integration.azure_ml.sdk import Sdk
    from tests.integration.azure_ml.servers import AzureML

RUN = "there"
FIELDS = (
    *(
        "properties",
        "tags",
        "status",
        "parentRunId",
        "name",
        "values",
        "paths",
        "FileNames",
        "DirTreeNode",
        "data",
        "url",
    ),
    *("FileRevisionList", "Configuration", "SnapshotId", "artifacts", "kvTags", "packageType", "imageRequest", "runid"),
    *("metricName", "filter", "orderby", "top", "continuationToken", "mimeType", "description", "python", "target"),
)
WRONG: list[Any] = [
    None,
    7,
    -1,
    10**40,
    1.5,
    True,
    "text",
    "\ud800",
    [],
    [7],
    [None],
    [[]],
    {},
    {"a": {"b": 7}},
    {"a": [7]},
]
UNREADABLE = [b"{", b"\xff\xfe", b"nul", b"[" * 100_000, b'{"a": }']
METRICS = f"/metric/v2.0{{W}}/runs/{RUN}/batch"
RUNS = "/history/v1.0{W}/experiments/rude/runs"
SNAPSHOT = "/content/v2.0{W}/snapshots/33333333-1111-1111-1111-111111111111"
EVENT = "Microsoft.MachineLearning.Run."
VALUE = {"metricId": "a", "data": {"m": 1}}
NO_FILE: dict[str, Any] = {"FileNodes": []}
STEPS: list[Any] = ["1", 2**70, [], 1.5]
NESTED: list[tuple[str, str, Any]] = [
    ("POST", METRICS, {"values": [{"name": "m", "value": [7]}]}),
    ("POST", METRICS, {"values": [{"name": "m", "value": [{"metricId": "a"}]}]}),
    *(("POST", METRICS, {"values": [{"name": "m", "value": [{**VALUE, "step": x}]}]}) for x in STEPS),
    ("POST", METRICS.replace(RUN, "no-such-run"), {"values": []}),
    ("POST", f"/artifact/v2.0{{W}}/artifacts/batch/metadata/ExperimentRun/dcid.{RUN}", {"paths": [{"path": "../x"}]}),
    ("POST", f"{RUNS}/{RUN}/events", {"name": f"{EVENT}Error", "data": 7}),
    ("POST", f"{RUNS}/{RUN}/events", {"name": f"{EVENT}Explode"}),
    ("PATCH", f"{RUNS}/{RUN}", {"tags": {"a": 7}}),
    ("PATCH", f"{RUNS}/{RUN}", {"tags": {"new": "b"}, "status": "Sleeping"}),
    ("PATCH", f"{RUNS}/below", {"parentRunId": "no-such-run"}),
    ("POST", f"{RUNS}:query", {"orderby": [{"a": 7}]}),
    ("POST", f"{RUNS}:query", {"top": 2**80}),
    ("POST", f"{RUNS}:query", {"continuationToken": "\u00b2"}),
    ("POST", "/modelmanagement/v1.0{W}/assets", {"name": "a", "artifacts": [{"prefix": 7}]}),
    ("POST", "/modelmanagement/v1.0{W}/assets", {"name": "a", "artifacts": [{}]}),
    ("PUT", "{W}/computes/rude", {"properties": {"computeType": "AmlCompute"}}),
    ("POST", SNAPSHOT, {"DirTreeNode": {"children": {"a": 7}}, "FileRevisionList": NO_FILE}),
    ("POST", SNAPSHOT, {"DirTreeNode": {"children": {"a/b": {"type": "File"}}}, "FileRevisionList": NO_FILE}),
    ("POST", SNAPSHOT, {"DirTreeNode": {}, "FileRevisionList": {"FileNodes": [{"FullName": "a", "BlobUri": "x"}]}}),
    ("POST", SNAPSHOT, {"DirTreeNode": {}, "FileRevisionList": {"FileNodes": [{"FullName": "../a", "BlobUri": "x"}]}}),
]


@pytest.fixture(scope="module")
def session(sdk: Sdk, http: Http) -> requests.Session:
    """Give the module a logged-in client, and a run and an environment to be rude to."""
    session = requests.Session()
    session.trust_env = False
    session.verify = http.verify
    session.headers["Authorization"] = f"Bearer {http.token()}"
    run = f"{http.server.url}/history/v1.0{http.workspace}/experiments/rude"
    assert session.post(run, timeout=10).ok
    assert session.patch(f"{run}/runs/{RUN}", json={"tags": {"a": "b"}}, timeout=10).ok
    return session


def stored(server: AzureML) -> dict[str, list[Any]]:
    """Return every row that the server keeps."""
    connection = sqlite3.connect(f"file:{server.state}/state.sqlite3?mode=ro", uri=True)
    try:
        tables = [name for (name,) in connection.execute("select name from sqlite_schema where type = 'table'")]
        statements = {name: f'select * from "{name}"' for name in tables}  # noqa: S608  # the tables' own names
        return {name: sorted(connection.execute(text), key=repr) for name, text in statements.items()}
    finally:
        connection.close()


def routes_with_a_body(server: AzureML) -> list[tuple[str, str]]:
    """Return each route that reads a body, by method and path, with names that exist where that gets further."""
    known = {"experiment": "rude", "run_id": RUN, "container": f"dcid.{RUN}", "origin": "ExperimentRun"}
    found = []
    for route in all_routes(kept_settings(server.state, server.port)):
        if route.method in {"POST", "PUT", "PATCH", "DELETE"} and "/_control/" not in route.path:
            path = re.sub(r"/subscriptions/\{subscription\}.*?/workspaces/\{workspace\}", "{W}", route.path)
            for name, value in known.items():
                path = re.sub(rf"\{{{name}(:path)?\}}", value, path)
            path = re.sub(r"\{(?!W\})\w+(:path)?\}", "x-1", path)
            found.append((route.method, path))
    return found


def refusal(answer: requests.Response, what: str) -> None:
    """Check that an answer refuses, in Azure's shape."""
    assert 400 <= answer.status_code < 500, f"{answer.status_code} for {what}: {answer.text[:300]}"
    body = answer.json()
    error = body["error"]
    if isinstance(error, str):  # the authority has a shape of its own
        assert body["error_description"]
    else:
        assert (bool(error["code"]), bool(error["message"]), error["details"]) == (True, True, [])


def test_no_body_of_any_route_breaks_the_server_and_what_is_refused_writes_nothing(
    server: AzureML, http: Http, session: requests.Session
) -> None:
    bodies = [*UNREADABLE, *(json.dumps(value).encode() for value in WRONG)]
    bodies += [json.dumps(dict.fromkeys(FIELDS, value)).encode() for value in WRONG]
    for method, path in routes_with_a_body(server):
        url = server.url + path.replace("{W}", http.workspace)
        for body in bodies:
            before = stored(server)
            answer = session.request(method, url, data=body, timeout=10)
            if answer.ok:
                continue  # such as a field that the route does not read
            refusal(answer, f"{method} {path} {body[:80]!r}")
            assert stored(server) == before, f"{method} {path} wrote something before it refused {body[:80]!r}"


@pytest.mark.parametrize(("method", "path", "body"), NESTED)
def test_what_is_wrong_deep_inside_is_refused_as_a_whole(
    server: AzureML, http: Http, session: requests.Session, method: str, path: str, body: Any
) -> None:
    before = stored(server)
    answer = session.request(method, server.url + path.replace("{W}", http.workspace), json=body, timeout=10)
    refusal(answer, f"{method} {path} {body}")
    assert stored(server) == before


def test_a_patch_of_a_model_that_is_wrong_changes_nothing(
    server: AzureML, http: Http, session: requests.Session
) -> None:
    models = f"{server.url}/modelmanagement/v1.0{http.workspace}"
    place = f"{server.url}/artifact/v2.0{http.workspace}/artifacts/batch/metadata/LocalUpload/rude"
    uri = session.post(place, json={"paths": [{"path": "m"}]}, timeout=10).json()["artifactContentInformation"]["m"]
    assert requests.put(uri["contentUri"], data=b"model", verify=http.verify, timeout=10).ok
    wish = {"name": "a", "artifacts": [{"prefix": "LocalUpload/rude/m"}]}
    asset = session.post(f"{models}/assets", json=wish, timeout=10).json()["id"]
    body = {"name": "rude", "url": f"aml://asset/{asset}", "mimeType": "x"}
    assert session.post(f"{models}/models", json=body, timeout=10).json()["id"] == "rude:1"
    before = stored(server)
    for wrong in (
        [{"op": "replace", "path": "/kvTags", "value": 7}],
        [{"op": "replace", "path": "/kvTags", "value": {"a": "b"}}, {"op": "remove", "path": "/name"}],
        [{"op": "replace", "path": "/description", "value": {"a": 7}}],
        [7],
        {"op": "replace"},
    ):
        refusal(session.patch(f"{models}/models/rude:1", json=wrong, timeout=10), str(wrong))
        assert stored(server) == before
    changes: list[Any] = [{"kvTags": {"a": 7}}, {"properties": []}, {"runId": 7}, {"name": 7}, {"framework": []}]
    for change in changes:
        refusal(session.post(f"{models}/models", json={**body, **change}, timeout=10), str(change))
        assert stored(server) == before


def test_no_control_call_breaks_the_server(server: AzureML, http: Http) -> None:
    for path in ("faults", "tokens", f"runs/{RUN}/status"):
        for value in WRONG[3:]:
            fields = ("kind", "path", "calls", "status", "client_seconds", "revoke", "error")
            body = json.dumps(dict.fromkeys(fields, value))
            answer = requests.post(f"{server.url}/_control/{path}", data=body, verify=http.verify, timeout=10)
            assert error_of(answer)[0] in {400, 404}, f"{path} {body}"
    assert server.control("GET", "/_control/faults")["faults"] == []


def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(
    server: AzureML, http: Http, session: requests.Session
) -> None:
    def endless() -> Any:
        for _ in range(LARGEST_BODY // 2**20 + 8):
            yield b" " * 2**20

    url = f"{server.url}/metric/v2.0{http.workspace}/runs/{RUN}/batch"
    before = stored(server)
    try:
        answer = session.post(url, data=endless(), timeout=30)
    except requests.ConnectionError:
        return  # the server had hung up before everything was sent
    assert error_of(answer)[:2] == (413, "RequestBodyTooLarge")
    assert stored(server) == before


@pytest.mark.parametrize("name", ["..%2fup", "%2e%2e", "a%00b", "a%2fb", "%ed%a0%80", "x" * 300, "-x", "."])
def test_a_name_in_a_path_that_could_leave_its_place_is_refused(
    server: AzureML, http: Http, session: requests.Session, name: str
) -> None:
    before = stored(server)
    for method, path in (
        ("PATCH", f"/history/v1.0{{W}}/experiments/rude/runs/{name}"),
        ("POST", f"/history/v1.0{{W}}/experiments/{name}"),
        ("PUT", f"/environment/v1.0{{W}}/environments/{name}"),
        ("PUT", f"{{W}}/computes/{name}"),
        ("POST", f"/content/v2.0{{W}}/snapshots/{name}"),
        ("GET", f"/artifact/v2.0{{W}}/artifacts/contentinfo/ExperimentRun/dcid.{RUN}/{name}"),
        ("GET", f"/blobs/{name}"),
    ):
        request = requests.Request(method, "https://x/", json={} if method != "GET" else None).prepare()
        request.url = server.url + path.replace("{W}", http.workspace)  # as it is: requests would tidy it up
        request.headers["Authorization"] = str(session.headers["Authorization"])
        answer = session.send(request, timeout=10)
        assert answer.status_code in {400, 403, 404, 501}, f"{method} {path}: {answer.status_code} {answer.text[:200]}"
        assert answer.json()["error"]["details"] == []
    assert stored(server) == before


def test_a_model_name_that_could_be_a_path_is_refused(server: AzureML, http: Http, session: requests.Session) -> None:
    before = stored(server)
    url = f"{server.url}/modelmanagement/v1.0{http.workspace}/models"
    for name in ("../up", "a/b", "", "a\u0000b", "ü", "x" * 300):
        answer = session.post(url, json={"name": name, "url": "aml://asset/x", "mimeType": "x"}, timeout=10)
        assert error_of(answer)[:2] == (400, "BadArgument"), name
    assert stored(server) == before


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"target": 7},
        {"target": "edge-vm", "environment": "text"},
        {"target": "edge-vm", "environment": {"python": []}},
        {"target": "no-such-vm"},
    ],
)
def test_a_submission_that_cannot_be_meant_makes_no_run(
    server: AzureML, http: Http, session: requests.Session, configuration: dict[str, Any]
) -> None:
    before = stored(server)
    url = f"{server.url}/execution/v1.0{http.workspace}/experiments/rude/snapshotrun"
    body = {"Configuration": configuration, "SnapshotId": "0" * 32}
    answer = session.post(url, params={"runId": "never"}, json=body, timeout=10)
    assert error_of(answer)[0] == 400
    assert stored(server) == before
