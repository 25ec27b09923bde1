"""The control endpoints, below ``/_control/``: never part of what the SDK sees."""

from __future__ import annotations

from dataclasses import asdict

from local_site.azure_ml.web import Access, Answer, Call, Route


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


ROUTES = [
    Route("GET", "/health", health, Access.OPEN),
    Route("GET", "/_control/journal", read_journal, Access.OPEN),
    Route("DELETE", "/_control/journal", clear_journal, Access.OPEN),
    Route("GET", "/_control/faults", list_faults, Access.OPEN),
    Route("POST", "/_control/faults", add_fault, Access.OPEN),
    Route("DELETE", "/_control/faults", clear_faults, Access.OPEN),
]
