"""Rows of the run history as the wire has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.artifacts.state import RUN_ORIGIN
from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.history.state import TERMINAL
from local_site.azure_ml.web import container_of

if TYPE_CHECKING:
    from local_site.azure_ml.backend import Backend
    from local_site.azure_ml.database import Row

LOG_FOLDERS = ("user_logs/", "azureml-logs/", "logs/")


def experiment_record(row: Row) -> dict[str, Any]:
    """Return an experiment."""
    return {
        "experimentId": row["experiment_id"],
        "name": row["name"],
        "createdUtc": row["created"],
        "tags": {},
        "archivedTime": None,
    }


def run_record(backend: Backend, row: Row) -> dict[str, Any]:
    """Return a run."""
    settings = backend.settings
    run_id, experiment_id = row["run_id"], row["experiment_id"]
    job = backend.jobs.exists(run_id)
    cancel = f"{settings.base_url}/execution/v1.0{settings.workspace_path}/experimentids/{experiment_id}/runs/{run_id}/cancel"
    return {
        "runNumber": row["run_number"],
        "runId": run_id,
        "rootRunId": row["root_run_id"],
        "parentRunId": row["parent_run_id"],
        "experimentId": experiment_id,
        "createdUtc": row["created"],
        "startTimeUtc": row["started"],
        "endTimeUtc": row["ended"],
        "status": row["status"],
        "name": row["name"],
        "displayName": row["name"] or run_id,
        "description": row["description"],
        "dataContainerId": container_of(run_id),
        "runType": row["run_type"],
        "scriptName": row["script_name"],
        "target": row["target"],
        "tags": json.loads(row["tags"]),
        "properties": json.loads(row["properties"]),
        "error": json.loads(row["error"]) if row["error"] else None,
        "warnings": None,
        "hidden": False,
        "heartbeatEnabled": False,
        "createdBy": {"userName": settings.client_id, "userObjectId": settings.client_id},
        "cancelUri": cancel if job and row["status"] not in TERMINAL else None,
    }


def details_record(backend: Backend, row: Row) -> dict[str, Any]:
    """Return a run's details: its definition, and its log files by signed URL."""
    container = container_of(row["run_id"])
    found = [item for folder in LOG_FOLDERS for item in backend.artifacts.below(RUN_ORIGIN, container, folder)]
    return {
        "runId": row["run_id"],
        "target": row["target"],
        "status": row["status"],
        "startTimeUtc": row["started"],
        "endTimeUtc": row["ended"],
        "error": json.loads(row["error"]) if row["error"] else None,
        "warnings": [],
        "properties": json.loads(row["properties"]),
        "inputDatasets": [],
        "outputDatasets": [],
        "runDefinition": json.loads(row["run_definition"]) if row["run_definition"] else None,
        "logFiles": {item.path: backend.blobs.read_url(item.blob) for item in found},
        "services": {},
    }


def queueing_record(backend: Backend, run_id: str) -> dict[str, Any]:
    """Return what a waiting run waits for."""
    place, waiting, compute = backend.jobs.place_in_queue(run_id)
    message = f"Run {run_id} is number {place} of the {waiting} that wait for compute {compute}."
    return {"code": "WaitingForCompute", "message": message, "lastRefreshTimestamp": utc_text()}
