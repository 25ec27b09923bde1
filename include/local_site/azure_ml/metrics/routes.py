"""The metric service."""

from __future__ import annotations

from local_site.azure_ml.errors import BadRequestError
from local_site.azure_ml.web import WORKSPACE, Access, Answer, Call, Route, field_of

METRICS = f"/metric/v2.0{WORKSPACE}/runs/{{run_id}}"


def add(call: Call) -> Answer:
    """Keep a batch of values."""
    batches = field_of(call.json(), "values", list)
    if not all(isinstance(batch, dict) for batch in batches):
        raise BadRequestError("Every one of 'values' must be an object.")
    call.backend.history.run(call.path["run_id"])
    call.backend.metrics.add(call.path["run_id"], batches)
    return {"errors": []}


def names(call: Call) -> Answer:
    """List the metrics of a run."""
    return {"value": call.backend.metrics.names(call.path["run_id"]), "continuationToken": None}


def full(call: Call) -> Answer:
    """Return every value of one metric."""
    return call.backend.metrics.full(call.path["run_id"], field_of(call.json(), "metricName", str))


ROUTES = [
    Route("POST", METRICS + "/batch", add, Access.RUN),
    Route("POST", METRICS + "/list", names, Access.RUN),
    Route("POST", METRICS + "/full", full, Access.RUN),
]
