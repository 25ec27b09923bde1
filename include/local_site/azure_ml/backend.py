"""Everything the server keeps, in one place: each service's state, made once and handed to the handlers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_site.azure_ml.arm.state import Computes
from local_site.azure_ml.artifacts.state import Artifacts
from local_site.azure_ml.blobs.state import Blobs
from local_site.azure_ml.control.faults import Faults
from local_site.azure_ml.control.journal import Journal
from local_site.azure_ml.control.state import Kept
from local_site.azure_ml.database import Database
from local_site.azure_ml.environments.state import Environments
from local_site.azure_ml.execution.jobs import Jobs
from local_site.azure_ml.execution.scheduler import Scheduler
from local_site.azure_ml.history.state import History
from local_site.azure_ml.identity.tokens import Tokens
from local_site.azure_ml.metrics.state import Metrics
from local_site.azure_ml.models.state import Models
from local_site.azure_ml.packages.state import Packages
from local_site.azure_ml.packages.worker import Packager
from local_site.azure_ml.snapshots.state import Snapshots

if TYPE_CHECKING:
    from local_site.azure_ml.settings import Settings


@dataclass(frozen=True)
class Backend:
    """The services' states."""

    settings: Settings
    database: Database
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
    packages: Packages
    packager: Packager

    def start(self) -> None:
        """Take up what an earlier process left, and begin to work."""
        self.computes.resume()
        self.scheduler.start()
        self.packager.start()

    def stop(self) -> None:
        """Begin nothing more. Runs that are going on go on, on their machine."""
        self.scheduler.stop()
        self.packager.stop()

    def reset(self) -> None:
        """End every run and forget everything but the settings and the snapshots, which clients' caches know.

        :raises ConflictError: when a run cannot be ended in time; nothing is forgotten then.
        """
        with self.scheduler.emptied():
            self.database.empty(keep=("snapshots", "snapshot_archives"))
            self.blobs.keep_only(self.snapshots.all_blobs())
            self.faults.clear()
            self.tokens.reset()
            self.journal.clear()


def open_backend(settings: Settings) -> Backend:
    """Open the state folder; nothing runs until the scheduler is started."""
    database = Database(settings.state / "state.sqlite3")
    kept = Kept(database)
    tokens = Tokens(settings, kept)
    blobs = Blobs(settings)
    artifacts = Artifacts(database, blobs)
    computes = Computes(database, settings)
    history = History(database)
    snapshots = Snapshots(database, blobs)
    jobs = Jobs(database, history, snapshots, computes)
    models = Models(database, artifacts)
    packages = Packages(database, artifacts, models)
    return Backend(
        settings=settings,
        database=database,
        tokens=tokens,
        journal=Journal(settings.state / "journal.ndjson"),
        faults=Faults(kept),
        blobs=blobs,
        artifacts=artifacts,
        computes=computes,
        environments=Environments(database),
        history=history,
        metrics=Metrics(database),
        snapshots=snapshots,
        models=models,
        jobs=jobs,
        scheduler=Scheduler(settings, tokens, jobs, history, computes, snapshots, artifacts),
        packages=packages,
        packager=Packager(settings, packages, artifacts),
    )
