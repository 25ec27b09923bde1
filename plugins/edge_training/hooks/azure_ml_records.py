"""Reads the Azure ML SDK's loose objects into our records, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.records import AttachedCompute, ModelVersion, RunStatus

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class ListedRun:
    """A run as a list of runs shows it.

    :param status: its state at that moment; of a list, without its error.
    :param experiment: the experiment's name.
    :param tags: the run's tags, such as ``dag_id`` and ``dag_run_id``.
    """

    status: RunStatus
    experiment: str
    tags: Mapping[str, str]


def attached_compute(target: Any) -> AttachedCompute:
    errors = target.provisioning_errors or []
    listed = errors if isinstance(errors, list) else [errors]
    return AttachedCompute(
        name=target.name,
        address=target.address or "",
        port=int(target.ssh_port or 22),
        resource_id=target.cluster_resource_id or "",
        provisioning_state=str(target.provisioning_state),
        errors=tuple(_provisioning_error(one) for one in listed),
    )


def _provisioning_error(error: Any) -> str:
    inner = error.get("error", error) if isinstance(error, dict) else error
    return str(inner.get("message") or inner) if isinstance(inner, dict) else str(inner)


def run_error(error: Any) -> tuple[str, str]:
    """Read code and message of ``{"error": {"code", "message"}}``, which is how run history stores a run's error."""
    inner = error.get("error", error) if isinstance(error, dict) else None
    if not isinstance(inner, dict):
        return "", str(error or "")
    return str(inner.get("code") or ""), str(inner.get("message") or "")


def run_status(run: Any, details: Mapping[str, Any]) -> RunStatus:
    code, message = run_error(details.get("error"))
    return RunStatus(
        run_id=str(run.id),
        state=str(details["status"]),
        portal_url=str(run.get_portal_url()),
        error_code=code,
        error_message=message,
        started=str(details.get("startTimeUtc") or ""),
        ended=str(details.get("endTimeUtc") or ""),
    )


def listed_run(run: Any) -> ListedRun:
    """Read a run that a list returned; this asks Azure ML nothing more."""
    status = run_status(run, {"status": run.status})
    return ListedRun(status=status, experiment=str(run.experiment.name), tags=dict(run.tags or {}))


def last_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    last: dict[str, float] = {}
    for name, value in sorted(metrics.items()):
        newest = value[-1] if isinstance(value, list) and value else value
        if isinstance(newest, (int, float)) and not isinstance(newest, bool):
            last[name] = float(newest)
    return last


def model_version(model: Any) -> ModelVersion:
    tags, properties = dict(model.tags or {}), dict(model.properties or {})
    return ModelVersion(
        name=model.name,
        version=int(model.version),
        model_id=model.id,
        run_id=model.run_id or "",
        file=properties.get("file", ""),
        sha256=properties.get("sha256", ""),
        tags=tags,
    )
