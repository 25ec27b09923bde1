"""Finding runs again, and what can be put on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.azure_ml.web import Http, error_of

if TYPE_CHECKING:
    from tests.integration.azure_ml.sdk import Sdk

RUNS = "/history/v1.0{W}/experiments/found"


@pytest.fixture(scope="module")
def experiment(sdk: Sdk) -> Any:
    """Give the module an experiment with four interactive runs."""
    from azureml.core import Experiment

    experiment = Experiment(sdk.workspace, "found")
    for number in range(4):
        run = experiment.start_logging(snapshot_directory=None, display_name=f"run {number}")
        run.tag("number", str(number))
        run.tag("parity", "even" if number % 2 == 0 else "odd")
        run.add_properties({"digest": f"sha256:{number}"})
        if number == 3:
            run.tag('od"d', 'a "quote" (bracket), and-or')
            run.fail(error_details="it was the last")
        else:
            run.complete()
    return experiment


def numbers(runs: Any) -> list[str]:
    """Return the numbers of runs, in their order."""
    return [run.get_tags()["number"] for run in runs]


def test_runs_are_listed_newest_first(experiment: Any) -> None:
    assert numbers(experiment.get_runs()) == ["3", "2", "1", "0"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"tags": {"parity": "even"}}, ["2", "0"]),
        ({"tags": 'od"d'}, ["3"]),
        ({"tags": {"parity": "odd", "number": "1"}}, ["1"]),
        ({"tags": {'od"d': 'a "quote" (bracket), and-or'}}, ["3"]),
        ({"properties": {"digest": "sha256:2"}}, ["2"]),
        ({"properties": {"digest": "sha256:2"}, "tags": {"parity": "odd"}}, []),
        ({"status": "Failed"}, ["3"]),
        ({"status": "Completed", "tags": "parity"}, ["2", "1", "0"]),
        ({"tags": {"parity": "no such value"}}, []),
    ],
)
def test_runs_are_found_by_tag_property_and_status(experiment: Any, wanted: dict[str, Any], found: list[str]) -> None:
    from azureml.core import Run

    assert numbers(Run.list(experiment, **wanted)) == found


def test_an_interactive_run_ends_as_it_says(experiment: Any) -> None:
    from azureml.core import Run

    failed = next(iter(Run.list(experiment, status="Failed")))
    assert "it was the last" in failed.get_details()["error"]["error"]["message"]


def test_tags_are_changed_and_taken_off(experiment: Any) -> None:
    run = experiment.start_logging(snapshot_directory=None)
    run.set_tags({"a": "1", "b": "2", "number": "9"})
    run.set_tags({"a": "3"})
    run.remove_tags(["b"])
    run.cancel()
    assert run.get_tags() == {"a": "3", "number": "9"}
    assert run.get_status() == "Canceled"


def test_a_run_that_ended_stays_as_it_ended(experiment: Any, http: Http) -> None:
    from azureml.core import Run

    run = next(iter(Run.list(experiment, status="Failed")))
    event = {"name": "Microsoft.MachineLearning.Run.Completed", "data": {"RunId": run.id}}
    assert http.call("POST", f"{RUNS}/runs/{run.id}/events", json=event).status_code == 200
    assert run.get_status() == "Failed"


def test_a_run_that_there_is_not_is_not_found(sdk: Sdk) -> None:
    from azureml.exceptions import ServiceException

    with pytest.raises(ServiceException, match="no-such-run was not found"):
        sdk.workspace.get_run("no-such-run")


def test_pages_follow_each_other_without_a_gap(experiment: Any, http: Http) -> None:
    found: list[str] = []
    token: str | None = ""
    while token is not None:
        body = {"filter": "(ParentRunId eq null)", "orderby": ["CreatedUtc asc"], "top": 2, "continuationToken": token}
        page = http.call("POST", f"{RUNS}/runs:query", json=body).json()
        assert len(page["value"]) <= 2
        found += [run["runId"] for run in page["value"]]
        token = page["continuationToken"]
    assert sorted(found) == sorted(run.id for run in experiment.get_runs())


@pytest.mark.parametrize(
    "wrong",
    [
        {"filter": "(Password eq 1)"},
        {"filter": "(Status eq Completed"},
        {"filter": "Status Completed"},
        {"filter": "(" * 60 + "Status eq Completed" + ")" * 60},
        {"filter": "(Status eq Completed) union select 1"},
        {"filter": "(CreatedUtc gt yesterday)"},
        {"orderby": ["status; drop table runs"]},
        {"top": "many"},
        {"continuationToken": "-1"},
    ],
)
def test_a_query_that_cannot_be_read_is_refused(experiment: Any, http: Http, wrong: dict[str, Any]) -> None:
    assert error_of(http.call("POST", f"{RUNS}/runs:query", json=wrong))[:2] == (400, "BadArgument")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Tags/parity eq "odd" or Tags/number eq "0"', 3),
        ('Tags/parity eq "odd" and Status eq Failed or Tags/number eq "0"', 2),
        ("(CreatedUtc ge 2020-01-01 00:00:00+00:00) and (Tags/parity ne null or Tags/parity eq null)", 4),
        ("(CreatedUtc gt 2999-01-01)", 0),
        ('Tags/parity ne "odd"', 2),
    ],
)
def test_filters_bind_and_before_or(experiment: Any, http: Http, text: str, found: int) -> None:
    page = http.call("POST", f"{RUNS}/runs:query", json={"filter": text}).json()
    assert len(page["value"]) == found


def test_metrics_sent_twice_are_kept_once(experiment: Any, http: Http) -> None:
    run = experiment.start_logging(snapshot_directory=None)
    run.tag("number", "10")
    value = {"metricId": "one", "createdUtc": "2026-11-21T08:00:00Z", "data": {"loss": 0.25}}
    batch = {"name": "loss", "columns": {"loss": "Double"}, "properties": {"uxMetricType": "azureml.v1.scalar"}}
    for _ in range(2):
        body = {"values": [{**batch, "value": [value]}], "reportErrors": True}
        assert http.call("POST", f"/metric/v2.0{{W}}/runs/{run.id}/batch", json=body).json() == {"errors": []}
    assert run.get_metrics() == {"loss": 0.25}
    run.complete()
