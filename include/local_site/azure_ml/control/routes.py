"""The control endpoints, below ``/_control/``: never part of what the SDK sees."""

from __future__ import annotations

from dataclasses import asdict

from local_site.azure_ml.errors import BadRequestError, ConflictError
from local_site.azure_ml.history.records import run_record
from local_site.azure_ml.history.state import TERMINAL
from local_site.azure_ml.web import Access, Answer, Call, Route, field_of

LONGEST_SECONDS = 366 * 24 * 3600


def health(call: Call) -> Answer:
    """Say that the server answers, and for which workspace."""
    return {"status": "ok", "workspace": call.backend.settings.workspace}


def read_journal(call: Call) -> Answer:
    """Return the newest requests."""
    return {"requests": [asdict(entry) for entry in call.backend.journal.entries()]}


def clear_journal(call: Call) -> Answer:
    """Forget the requests that are in memory."""
    call.backend.journal.clear()
    return {}


def list_faults(call: Call) -> Answer:
    """Return the faults that wait for their calls."""
    return {"faults": call.backend.faults.waiting()}


def add_fault(call: Call) -> Answer:
    """Arrange a fault for the next calls of a route."""
    return asdict(call.backend.faults.add(call.json()))


def clear_faults(call: Call) -> Answer:
    """Take back every fault."""
    call.backend.faults.clear()
    return {}


def set_run_status(call: Call) -> Answer:
    """Put a run into a state by hand; its processes are ended when that state is an end."""
    body = call.json()
    status, error = field_of(body, "status", str), field_of(body, "error", dict, {})
    if unknown := sorted(set(body) - {"status", "error"} | set(error) - {"code", "message"}):
        raise BadRequestError(f"A state has no {', '.join(unknown)}; its fields are status and error (code, message).")
    facts = {"code": field_of(error, "code", str, "UserError"), "message": field_of(error, "message", str, "")}
    run_id = call.path["run_id"]
    if status == "Queued" and run_id in call.backend.scheduler.active():
        raise ConflictError(f"Run {run_id} is going on; put it into an end state before it is queued again.")
    call.backend.jobs.force(run_id, status, {"error": {**facts, "details": []}} if error else None)
    if status in TERMINAL:
        call.backend.scheduler.cancel(run_id)
    call.backend.scheduler.wake()
    return run_record(call.backend, call.backend.history.run(run_id))


def queue(call: Call) -> Answer:
    """Say which runs are trained and which wait, in their order."""
    waiting = [{"runId": job.run_id, "compute": job.compute} for job in call.backend.jobs.waiting()]
    return {"active": call.backend.scheduler.active(), "waiting": waiting}


def change_tokens(call: Call) -> Answer:
    """Change how long tokens are good that are given from now on, or revoke those that were given."""
    body = call.json()
    if unknown := sorted(set(body) - {"client_seconds", "run_seconds", "revoke"}):
        raise BadRequestError(f"Tokens have no {', '.join(unknown)}; say client_seconds, run_seconds or revoke.")
    seconds = [field_of(body, name, int, 0) for name in ("client_seconds", "run_seconds")]
    if any(not 0 <= one <= LONGEST_SECONDS for one in seconds):
        raise BadRequestError(f"Tokens are good for 1 to {LONGEST_SECONDS} seconds.")
    return call.backend.tokens.change(*seconds, revoke=field_of(body, "revoke", bool, default=False))


def reset(call: Call) -> Answer:
    """End every run and forget everything but the settings and the snapshots."""
    call.backend.reset()
    return {}


ROUTES = [
    Route("GET", "/health", health, Access.OPEN),
    Route("GET", "/_control/journal", read_journal, Access.OPEN),
    Route("DELETE", "/_control/journal", clear_journal, Access.OPEN),
    Route("GET", "/_control/faults", list_faults, Access.OPEN),
    Route("POST", "/_control/faults", add_fault, Access.OPEN),
    Route("DELETE", "/_control/faults", clear_faults, Access.OPEN),
    Route("POST", "/_control/runs/{run_id}/status", set_run_status, Access.OPEN),
    Route("GET", "/_control/queue", queue, Access.OPEN),
    Route("POST", "/_control/tokens", change_tokens, Access.OPEN),
    Route("POST", "/_control/reset", reset, Access.OPEN),
]
