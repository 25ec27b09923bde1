"""The run history service."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.errors import BadRequestError
from local_site.azure_ml.history.records import details_record, experiment_record, queueing_record, run_record
from local_site.azure_ml.history.state import Position
from local_site.azure_ml.web import WORKSPACE, Access, Answer, Call, Route, field_of, texts_of

if TYPE_CHECKING:
    from local_site.azure_ml.database import Row

HISTORY = f"/history/v1.0{WORKSPACE}"
EVENT = "Microsoft.MachineLearning.Run."
STATUS_EVENTS = {"Start": "Running", "Completed": "Completed", "Failed": "Failed", "Canceled": "Canceled"}
TOKEN = re.compile(r"[0-9]{1,9}(\.[0-9]{1,12})?")
IGNORED_EVENTS = {"Heartbeat", "Warning", "Queued", "QueueingInfo", "CancelRequested"}


def get_experiment(call: Call) -> Answer:
    """Return an experiment by name."""
    return experiment_record(call.backend.history.experiment(call.path["experiment"]))


def make_experiment(call: Call) -> Answer:
    """Make an experiment, or return the one of this name."""
    return experiment_record(call.backend.history.make_experiment(call.path["experiment"]))


def get_experiment_by_id(call: Call) -> Answer:
    """Return an experiment by id."""
    return experiment_record(call.backend.history.experiment_by_id(call.path["experiment_id"]))


def get_run(call: Call) -> Answer:
    """Return a run."""
    row = _run(call)
    queueing = queueing_record(call.backend, row["run_id"]) if row["status"] == "Queued" else None
    return {**run_record(call.backend, row), "queueingInfo": queueing}


def merge_run(call: Call) -> Answer:
    """Make a run or change one. How a submitted run goes is what its execution says, not what a client says."""
    body = call.json()
    for name in ("tags", "properties"):
        texts_of(body, name)
    for name in ("status", "parentRunId", "name", "displayName", "description", "scriptName", "target", "runType"):
        field_of(body, name, str, "")
    run_id = call.path["run_id"]
    submitted = call.backend.jobs.exists(run_id)
    experiment_id = _experiment(call)["experiment_id"]
    row = call.backend.history.merge(experiment_id, run_id, body, with_status=not submitted)
    return run_record(call.backend, row)


def drop_tags(call: Call) -> Answer:
    """Take tags off a run."""
    names = call.json_value()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadRequestError("The body must be a list of tag names.")
    _run(call)
    return run_record(call.backend, call.backend.history.drop_tags(call.path["run_id"], names))


def get_details(call: Call) -> Answer:
    """Return a run's details."""
    return details_record(call.backend, _run(call))


def query(call: Call) -> Answer:
    """Return one page of an experiment's runs."""
    body = call.json()
    top, after, text = _paging(body)
    orderby = body.get("orderby") or body.get("orderBy")
    if orderby and not isinstance(orderby, (str, list)):
        raise BadRequestError("The field 'orderby' must be text or a list.")
    experiment_id = _experiment(call)["experiment_id"]
    rows, following = call.backend.history.query(experiment_id, text, orderby, top, after)
    token = f"{following.offset}.{following.newest}" if following else None
    return _page([run_record(call.backend, row) for row in rows], token)


def query_experiments(call: Call) -> Answer:
    """Return one page of the experiments, by name."""
    top, after, text = _paging(call.json())
    if text:
        raise BadRequestError("Experiments cannot be filtered here; ask for one by name.")
    rows, following = call.backend.history.experiments(top, after.offset)
    return _page([experiment_record(row) for row in rows], str(following) if following else None)


def children(call: Call) -> Answer:
    """Return the runs below a run."""
    run_id = _run(call)["run_id"]
    experiment_id = _experiment(call)["experiment_id"]
    rows, _ = call.backend.history.query(experiment_id, f"ParentRunId eq {run_id}", None, 500, Position())
    return _page([run_record(call.backend, row) for row in rows], None)


def add_event(call: Call) -> Answer:
    """Note what happened to a run.

    The status of a submitted run is its execution's to set; of an interactive one, these events are the only word there is.
    """
    body = call.json()
    name = field_of(body, "name", str).removeprefix(EVENT)
    row = _run(call)
    if name == "Error":
        call.backend.history.set_error(row["run_id"], _error(body))
    elif name in STATUS_EVENTS:
        if not call.backend.jobs.exists(row["run_id"]):
            call.backend.history.set_status(row["run_id"], STATUS_EVENTS[name])
    elif name not in IGNORED_EVENTS:
        raise BadRequestError(f"There is no event {EVENT}{name}.")
    return None


def wait_for_metrics(call: Call) -> Answer:
    """Say that every metric has been taken in: they are, before they are acknowledged."""
    _run(call)
    return None


def renew_token(call: Call) -> Answer:
    """Give a new token for a run, to a client or to the run itself."""
    row = _run(call)
    token = call.backend.tokens.for_run(row["run_id"])
    return {"token": token.text, "expiryTimeUtc": utc_text(datetime.fromtimestamp(token.expires, UTC))}


def _error(body: dict[str, Any]) -> dict[str, Any]:
    """Return the error that a script reported: ``{"error": {"code", "message", ...}}``."""
    reported = field_of(field_of(body, "data", dict), "ErrorResponse", dict)
    error = field_of(reported, "error", dict)
    return {"error": {**error, "code": error.get("code") or "UserError", "message": error.get("message") or ""}}


def _paging(body: dict[str, Any]) -> tuple[int, Position, str]:
    """Return how many are wanted, from where on, and the filter."""
    token = field_of(body, "continuationToken", str, "") or "0"
    if not TOKEN.fullmatch(token):
        raise BadRequestError("The continuation token was not made by this server.")
    offset, _, newest = token.partition(".")
    after = Position(int(offset), int(newest) if newest else None)
    return field_of(body, "top", int, 500), after, field_of(body, "filter", str, "")


def _page(records: list[dict[str, Any]], token: str | None) -> dict[str, Any]:
    return {"value": records, "continuationToken": token, "nextLink": None}


def _experiment(call: Call) -> Row:
    if "experiment_id" in call.path:
        return call.backend.history.experiment_by_id(call.path["experiment_id"])
    return call.backend.history.experiment(call.path["experiment"])


def _run(call: Call) -> Row:
    """Return the run that the path names, which must belong to the experiment that it names."""
    row = call.backend.history.run(call.path["run_id"])
    if {"experiment", "experiment_id"} & call.path.keys() and _experiment(call)["experiment_id"] != row[
        "experiment_id"
    ]:
        raise BadRequestError(f"Run {row['run_id']} does not belong to this experiment.")
    return row


def _of_run(method: str, below: str, handler: Any) -> list[Route]:
    """Return the same route by the experiment's name and by its id."""
    return [
        Route(method, f"{HISTORY}/experiments/{{experiment}}/runs/{{run_id}}{below}", handler, Access.RUN),
        Route(method, f"{HISTORY}/experimentids/{{experiment_id}}/runs/{{run_id}}{below}", handler, Access.RUN),
    ]


ROUTES = [
    Route("GET", HISTORY + "/experiments/{experiment}", get_experiment, Access.ANY_RUN),
    Route("POST", HISTORY + "/experiments/{experiment}", make_experiment),
    Route("GET", HISTORY + "/experimentids/{experiment_id}", get_experiment_by_id, Access.ANY_RUN),
    Route("POST", HISTORY + "/experiments:query", query_experiments),
    Route("GET", HISTORY + "/runs/{run_id}", get_run, Access.RUN),
    Route("POST", HISTORY + "/experiments/{experiment}/runs:query", query),
    Route("POST", HISTORY + "/experimentids/{experiment_id}/runs:query", query),
    *_of_run("GET", "", get_run),
    *_of_run("PATCH", "", merge_run),
    *_of_run("DELETE", "/tags", drop_tags),
    *_of_run("GET", "/details", get_details),
    *_of_run("GET", "/children", children),
    *_of_run("POST", "/events", add_event),
    *_of_run("GET", "/metricsingest/wait", wait_for_metrics),
    *_of_run("GET", "/token", renew_token),
]
