"""Submitted runs: what was asked for, so that it can be asked for again, and started again after a crash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.errors import BadRequestError, ConflictError, NotFoundError
from local_site.azure_ml.execution.definition import target_of
from local_site.azure_ml.history.state import TERMINAL, History

if TYPE_CHECKING:
    from local_site.azure_ml.arm.state import Computes
    from local_site.azure_ml.database import Database, Row
    from local_site.azure_ml.snapshots.state import Snapshots

# In the column `cancel`: 1 is a request, and this an end that was declared by hand.
ABANDONED = 2

SCHEMA = """
create table if not exists jobs (
    position integer primary key, run_id text not null unique, experiment text not null, experiment_id text not null,
    compute text not null, snapshot_id text not null, configuration text not null, digest text not null,
    cancel integer not null default 0, outcome text
);
create index if not exists jobs_of_compute on jobs (compute);
create table if not exists collected (
    run_id text not null, path text not null, stamp text not null, primary key (run_id, path)
) without rowid;
"""


@dataclass(frozen=True)
class Job:
    """A submitted run.

    :param compute: the name of the attached VM it is for.
    :param configuration: the run configuration as the SDK sent it.
    :param status: the run's status.
    :param cancel: whether somebody asked for its end.
    """

    run_id: str
    experiment: str
    experiment_id: str
    compute: str
    snapshot_id: str
    configuration: dict[str, Any]
    status: str
    started: str
    cancel: bool


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    :param status: ``Completed``, ``Failed`` or ``Canceled``.
    :param error: as the run history keeps it.
    """

    status: str
    error: dict[str, Any] | None = None

    @staticmethod
    def failed(code: str, message: str, status: str = "Failed") -> Outcome:
        """Return an outcome with an error in the service's words."""
        return Outcome(status, {"error": {"code": code, "message": message, "details": []}})


class Jobs:
    """Every submitted run of the workspace."""

    def __init__(self, database: Database, history: History, snapshots: Snapshots, computes: Computes) -> None:
        self._database = database
        self._history = history
        self._snapshots = snapshots
        self._computes = computes
        database.create(SCHEMA)

    def submit(self, experiment: Row, run_id: str, snapshot_id: str, configuration: dict[str, Any]) -> bool:
        """Queue a run. The same submission again changes nothing: a client repeats what it got no answer for.

        :return: whether it is new.
        :raises BadRequestError: when the snapshot or the compute does not exist.
        :raises ConflictError: when the id belongs to a run with another definition or other files.
        """
        compute = target_of(configuration)
        try:
            self._computes.get(compute)
            content = self._snapshots.digest(snapshot_id)
        except NotFoundError as error:
            raise BadRequestError(f"The run cannot be submitted. {error.message}", code=error.code) from error
        text = json.dumps(configuration, sort_keys=True)
        digest = hashlib.sha256(f"{content}\n{text}".encode()).hexdigest()
        with self._database.write() as connection:
            held = connection.execute("select digest from jobs where run_id = ?", (run_id,)).fetchone()
            if held is not None and held["digest"] != digest:
                raise ConflictError(f"Run {run_id} exists already, with another definition or other files.")
            if held is not None:
                return False
            row = self._history.added(connection, experiment["experiment_id"], run_id)
            if row["status"] != "NotStarted":
                raise ConflictError(f"Run {run_id} exists already and is {row['status']}.")
            connection.execute(
                "insert into jobs (run_id, experiment, experiment_id, compute, snapshot_id, configuration, digest)"
                " values (?, ?, ?, ?, ?, ?, ?)",
                (run_id, experiment["name"], experiment["experiment_id"], compute, snapshot_id, text, digest),
            )
            connection.execute(
                "update runs set target = ?, script_name = ?, run_definition = ?,"
                " properties = json_patch(?, properties) where run_id = ?",
                (compute, configuration.get("script"), text, json.dumps(_facts(snapshot_id)), run_id),
            )
            self._history.move(connection, run_id, "Queued")
        return True

    def exists(self, run_id: str) -> bool:
        """Tell whether a run was submitted, rather than started interactively."""
        return self._database.one("select 1 from jobs where run_id = ?", run_id) is not None

    def get(self, run_id: str) -> Job:
        """Return a submitted run.

        :raises NotFoundError: when there is none of this id.
        """
        row = self._database.one("select * from jobs join runs using (run_id) where run_id = ?", run_id)
        if row is None:
            raise NotFoundError(f"Run {run_id} was not submitted here.", code="UserError")
        return _made(row)

    def unfinished(self) -> list[Job]:
        """Return the runs that have not ended, in the order they were submitted."""
        rows = self._database.all(
            "select * from jobs join runs using (run_id) where status not in (?, ?, ?) order by position", *TERMINAL
        )
        return [_made(row) for row in rows]

    def waiting(self) -> list[Job]:
        """Return the runs that wait for their turn, in the order they were submitted."""
        rows = self._database.all(
            "select * from jobs join runs using (run_id) where status = 'Queued' order by position"
        )
        return [_made(row) for row in rows]

    def abandoned(self) -> list[Job]:
        """Return the runs that were ended by hand and whose processes may still be on their machine."""
        rows = self._database.all(
            "select * from jobs join runs using (run_id) where cancel = ? and outcome is null", ABANDONED
        )
        return [_made(row) for row in rows]

    def ask_to_cancel(self, run_id: str) -> bool:
        """Note that a run shall end; one that only waits ends right here.

        :return: whether it is running and must be stopped.
        """
        with self._database.write() as connection:
            connection.execute("update jobs set cancel = 1 where run_id = ?", (run_id,))
            status = connection.execute("select status from runs where run_id = ?", (run_id,)).fetchone()["status"]
            if status in {"NotStarted", "Queued"}:
                self._history.move(connection, run_id, "Canceled")
            elif status not in TERMINAL:
                self._history.move(connection, run_id, "CancelRequested")
                return True
        return False

    def force(self, run_id: str, status: str, error: dict[str, Any] | None) -> None:
        """Put a run into a state by hand, whatever state it is in; ``Queued`` makes a submitted run start again.

        :raises BadRequestError: when there is no such state, or a run that was never submitted shall be queued.
        :raises NotFoundError: when there is no such run.
        """
        self._history.run(run_id)
        if status == "Queued" and not self.exists(run_id):
            raise BadRequestError(f"Run {run_id} was not submitted: it cannot be queued.")
        with self._database.write() as connection:
            cancel = ABANDONED if status in TERMINAL else 0
            connection.execute("update jobs set outcome = null, cancel = ? where run_id = ?", (cancel, run_id))
            connection.execute("delete from collected where run_id = ?", (run_id,))
            connection.execute(
                "update runs set status = 'NotStarted', ended = null, error = null,"
                " started = iif(? in ('NotStarted', 'Queued', 'Preparing'), null, started) where run_id = ?",
                (status, run_id),
            )
            self._history.move(connection, run_id, status, error)

    def place_in_queue(self, run_id: str) -> tuple[int, int, str]:
        """Return a waiting run's place among those that wait for the same compute, how many wait, and the compute."""
        rows = self._database.all(
            "select run_id, compute from jobs join runs using (run_id) where status = 'Queued' and compute ="
            " (select compute from jobs where run_id = ?) order by position",
            run_id,
        )
        waiting = [row["run_id"] for row in rows]
        if run_id not in waiting:
            return 0, len(waiting), ""
        return waiting.index(run_id) + 1, len(waiting), str(rows[0]["compute"])

    def collected(self, run_id: str) -> dict[str, str]:
        """Return which files the server took from the run's folder, and what they looked like then."""
        rows = self._database.all("select path, stamp from collected where run_id = ?", run_id)
        return {row["path"]: row["stamp"] for row in rows}

    def note_collected(self, run_id: str, path: str, stamp: str) -> None:
        """Keep that a file was taken."""
        with self._database.write() as connection:
            connection.execute("insert or replace into collected values (?, ?, ?)", (run_id, path, stamp))

    def note_outcome(self, run_id: str, outcome: Outcome) -> None:
        """Keep how a run ended, before its folder is removed and nothing else would know."""
        text = json.dumps([outcome.status, outcome.error])
        with self._database.write() as connection:
            connection.execute("update jobs set outcome = ? where run_id = ?", (text, run_id))

    def outcome(self, run_id: str) -> Outcome | None:
        """Return how a run ended when that was all that was left to write down."""
        row = self._database.one("select outcome from jobs where run_id = ?", run_id)
        return Outcome(*json.loads(row["outcome"])) if row is not None and row["outcome"] else None

    def begin(self, run_id: str) -> bool:
        """Take a run from the queue.

        :return: whether it was still waiting.
        """
        with self._database.write() as connection:
            status = connection.execute("select status from runs where run_id = ?", (run_id,)).fetchone()["status"]
            return status == "Queued" and self._history.move(connection, run_id, "Preparing")


def _facts(snapshot_id: str) -> dict[str, str]:
    return {"ContentSnapshotId": snapshot_id, "_azureml.ComputeTargetType": "VirtualMachine"}


def _made(row: Row) -> Job:
    return Job(
        run_id=row["run_id"],
        experiment=row["experiment"],
        experiment_id=row["experiment_id"],
        compute=row["compute"],
        snapshot_id=row["snapshot_id"],
        configuration=json.loads(row["configuration"]),
        status=row["status"],
        started=row["started"] or "",
        cancel=bool(row["cancel"]),
    )
