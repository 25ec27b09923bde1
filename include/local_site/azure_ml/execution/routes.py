"""The execution service: submit and cancel."""

from __future__ import annotations

from local_site.azure_ml.errors import BadRequestError
from local_site.azure_ml.names import RUN_ID, check_name
from local_site.azure_ml.web import WORKSPACE, Answer, Call, Route, field_of

EXECUTION = f"/execution/v1.0{WORKSPACE}"


def submit(call: Call) -> Answer:
    """Queue a run."""
    body = call.json()
    run_id = check_name(call.query.get("runId", ""), RUN_ID, "run")
    experiment = call.backend.history.experiment(call.path["experiment"])
    configuration, snapshot_id = field_of(body, "Configuration", dict), field_of(body, "SnapshotId", str)
    if call.backend.jobs.submit(experiment, run_id, snapshot_id, configuration):
        call.backend.scheduler.wake()
    return {"runId": run_id}


def cancel(call: Call) -> Answer:
    """End a run, and every process of it. One that has ended stays as it is."""
    row = call.backend.history.run(call.path["run_id"])
    if row["experiment_id"] != call.path["experiment_id"]:
        raise BadRequestError(f"Run {row['run_id']} does not belong to this experiment.")
    call.backend.jobs.get(row["run_id"])
    if call.backend.jobs.ask_to_cancel(row["run_id"]):
        call.backend.scheduler.cancel(row["run_id"])
    return {}


ROUTES = [
    Route("POST", EXECUTION + "/experiments/{experiment}/snapshotrun", submit),
    Route("POST", EXECUTION + "/experimentids/{experiment_id}/runs/{run_id}/cancel", cancel),
]
