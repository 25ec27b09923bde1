"""Faults on purpose, the journal, and the table of what is supported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

import local_site.azure_ml
from local_site.azure_ml.app import all_routes
from local_site.azure_ml.settings import kept_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.azure_ml.sdk import Sdk
    from tests.integration.azure_ml.servers import AzureML
    from tests.integration.azure_ml.web import Http

FAULTS = "/_control/faults"


@pytest.fixture(autouse=True)
def no_fault_is_left(server: AzureML) -> Iterator[None]:
    yield
    server.control("DELETE", FAULTS)


def counted(server: AzureML, method: str, pattern: str) -> list[dict[str, Any]]:
    """Return the journal's entries for a route."""
    return [one for one in server.journal() if one["method"] == method and re.search(pattern, one["path"])]


def test_a_status_is_answered_as_often_as_asked_and_the_sdk_tries_again(sdk: Sdk, server: AzureML) -> None:
    server.control("POST", FAULTS, {"kind": "status", "status": 503, "path": "/experiments/tried$", "calls": 1})
    from azureml.core import Experiment

    assert Experiment(sdk.workspace, "tried").id
    statuses = [entry["status"] for entry in counted(server, "GET", "/experiments/tried$")]
    assert statuses == [503, 404]
    assert server.control("GET", FAULTS)["faults"] == []


def test_a_lost_response_has_done_its_work(http: Http, server: AzureML) -> None:
    server.control("POST", FAULTS, {"kind": "lost_response", "method": "POST", "path": "/experiments/lost$"})
    with pytest.raises(requests.ConnectionError):
        http.call("POST", "/history/v1.0{W}/experiments/lost")
    assert http.call("GET", "/history/v1.0{W}/experiments/lost").status_code == 200


def test_a_submission_whose_answer_was_lost_makes_one_run(sdk: Sdk, server: AzureML, tmp_path: Path) -> None:
    server.control("DELETE", "/_control/journal")
    server.control("POST", FAULTS, {"kind": "lost_response", "path": "/snapshotrun$"})
    run = sdk.submit(tmp_path / "src", "print('once')", "answer-lost")
    assert sdk.ended(run)["status"] == "Completed"
    assert [entry["status"] for entry in counted(server, "POST", "/snapshotrun$")] == [0, 200]


def test_a_reset_connection_has_done_nothing(http: Http, server: AzureML) -> None:
    server.control("POST", FAULTS, {"kind": "reset", "method": "POST", "path": "/experiments/reset$"})
    with pytest.raises(requests.ConnectionError):
        http.call("POST", "/history/v1.0{W}/experiments/reset")
    assert http.call("GET", "/history/v1.0{W}/experiments/reset").status_code == 404


def test_a_delay_is_written_into_the_journal(http: Http, server: AzureML) -> None:
    server.control("POST", FAULTS, {"kind": "delay", "seconds": 0.4, "path": "/experiments/slow$"})
    http.call("GET", "/history/v1.0{W}/experiments/slow")
    (entry,) = counted(server, "GET", "/experiments/slow$")
    assert (entry["fault"], entry["seconds"] >= 0.4) == ("delay", True)


def test_a_retry_after_is_sent_with_a_429(http: Http, server: AzureML) -> None:
    server.control("POST", FAULTS, {"kind": "status", "status": 429, "retry_after": 7, "path": "/experiments/busy$"})
    answer = http.call("GET", "/history/v1.0{W}/experiments/busy")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"kind": "explode", "path": "x"},
        {"kind": "reset"},
        {"kind": "reset", "path": "("},
        {"kind": "reset", "pth": "x"},
    ],
)
def test_a_fault_that_there_is_not_is_refused(server: AzureML, wish: dict[str, Any]) -> None:
    with pytest.raises(requests.HTTPError, match="400"):
        server.control("POST", FAULTS, wish)


def test_the_journal_holds_no_signature_and_no_token(http: Http, server: AzureML) -> None:
    http.call("GET", "/subscriptions?sig=secret")
    text = (server.state / "journal.ndjson").read_text()
    assert '"/subscriptions"' in text
    assert "sig=" not in text


def test_the_state_can_be_read_by_its_owner_only(server: AzureML) -> None:
    assert server.state.stat().st_mode & 0o077 == 0
    for name in ("kept.json", "state.sqlite3"):
        assert (server.state / name).stat().st_mode & 0o077 == 0


def test_the_readme_lists_exactly_the_routes_that_exist(server: AzureML) -> None:
    readme = (Path(local_site.azure_ml.__file__).parent / "README.md").read_text()
    listed = set(re.findall(r"^\| `([A-Z]+) (\S+)` \|", readme, re.MULTILINE))
    short = {
        (
            route.method,
            re.sub(r"/subscriptions/\{subscription\}/resourceGroups/.*?/workspaces/\{workspace\}", "W", route.path),
        )
        for route in all_routes(kept_settings(server.state, server.port))
    }
    blobs = {(method, "/blobs/{key}") for method in ("GET", "HEAD", "PUT")}
    assert listed == {(method, path.replace(":path}", "}")) for method, path in short} | blobs
