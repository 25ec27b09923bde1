"""Everything the server keeps, in one place: each service's state, made once and handed to the handlers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_site.azure_ml.arm.state import Computes
from local_site.azure_ml.artifacts.state import Artifacts
from local_site.azure_ml.blobs.state import Blobs
from local_site.azure_ml.control.faults import Faults
from local_site.azure_ml.control.journal import Journal
from local_site.azure_ml.database import Database
from local_site.azure_ml.environments.state import Environments
from local_site.azure_ml.execution.jobs import Jobs
from local_site.azure_ml.execution.scheduler import Scheduler
from local_site.azure_ml.history.state import History
from local_site.azure_ml.identity.tokens import Tokens
from local_site.azure_ml.metrics.state import Metrics
from local_site.azure_ml.models.state import Models
from local_site.azure_ml.snapshots.state import Snapshots

if TYPE_CHECKING:
    from local_site.azure_ml.settings import Settings


@dataclass(frozen=True)
class Backend:
    """The services' states."""

    settings: Settings
    tokens: Tokens
    journal: Journal
    faults: Faults
    blobs: Blobs
    artifacts: Artifacts
    computes: Computes
    environments: Environments
    history: History
    metrics: Metrics
    snapshots: Snapshots
    models: Models
    jobs: Jobs
    scheduler: Scheduler


def open_backend(settings: Settings) -> Backend:
    """Open the state folder; nothing runs until the scheduler is started."""
    database = Database(settings.state / "state.sqlite3")
    tokens = Tokens(settings)
    blobs = Blobs(settings)
    artifacts = Artifacts(database, blobs)
    computes = Computes(database, settings)
    history = History(database)
    snapshots = Snapshots(database, blobs)
    jobs = Jobs(database, history, snapshots, computes)
    return Backend(
        settings=settings,
        tokens=tokens,
        journal=Journal(settings.state / "journal.ndjson"),
        faults=Faults(),
        blobs=blobs,
        artifacts=artifacts,
        computes=computes,
        environments=Environments(database),
        history=history,
        metrics=Metrics(database),
        snapshots=snapshots,
        models=Models(database, artifacts),
        jobs=jobs,
        scheduler=Scheduler(settings, tokens, jobs, history, computes, snapshots, artifacts),
    )
