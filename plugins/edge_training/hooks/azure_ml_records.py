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
    :param compute: name of the compute target, or ``""``.
    :param created: ISO 8601, UTC, or ``""``.
    """

    status: RunStatus
    experiment: str
    tags: Mapping[str, str]
    compute: str = ""
    created: str = ""


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


def run_status(found: Mapping[str, Any], portal_url: str) -> RunStatus:
    """Read a run of the run history.

    :param found: the run as the wire has it.
    :param portal_url: its page in Azure ML Studio.
    """
    code, message = run_error(found.get("error"))
    return RunStatus(
        run_id=str(found["runId"]),
        state=str(found["status"]),
        portal_url=portal_url,
        error_code=code,
        error_message=message,
        started=str(found.get("startTimeUtc") or ""),
        ended=str(found.get("endTimeUtc") or ""),
    )


def listed_run(found: Mapping[str, Any], experiment: str, portal_url: str) -> ListedRun:
    """Read a run of the run history with what stands around its status.

    :param found: the run as the wire has it.
    :param experiment: the experiment's name, or ``""`` when it was not asked for.
    :param portal_url: its page in Azure ML Studio.
    """
    return ListedRun(
        status=run_status(found, portal_url),
        experiment=experiment,
        tags=dict(found.get("tags") or {}),
        compute=str(found.get("target") or ""),
        created=str(found.get("createdUtc") or ""),
    )


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
