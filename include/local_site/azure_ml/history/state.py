"""Experiments and runs as they are kept: what a run is called, how it went, and what stands on it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.errors import BadRequestError, NotFoundError
from local_site.azure_ml.history.filters import order, where
from local_site.azure_ml.names import RESOURCE, RUN_ID, check_name

if TYPE_CHECKING:
    import sqlite3

    from local_site.azure_ml.database import Database, Row

TERMINAL = ("Completed", "Failed", "Canceled")
STATES = ("NotStarted", "Queued", "Preparing", "Running", "CancelRequested", "Finalizing", *TERMINAL)
LARGEST_PAGE = 500
SETTABLE = {
    "name": "name",
    "displayName": "name",
    "description": "description",
    "scriptName": "script_name",
    "target": "target",
    "runType": "run_type",
}

SCHEMA = """
create table if not exists experiments (
    experiment_id text primary key, name text not null unique, created text not null
) without rowid;
create table if not exists runs (
    run_number integer primary key, run_id text not null unique, experiment_id text not null,
    status text not null, created text not null, started text, ended text,
    parent_run_id text, root_run_id text not null,
    name text, description text, script_name text, target text, run_type text,
    tags text not null default '{}', properties text not null default '{}',
    error text, run_definition text
);
create index if not exists runs_of_experiment on runs (experiment_id, created);
"""


@dataclass(frozen=True)
class Position:
    """Where a page of runs begins.

    :param offset: how many runs come before it.
    :param newest: the number of the newest run when the first page was asked for: what came later shifts no page.
    """

    offset: int = 0
    newest: int | None = None


class History:
    """Every experiment and run of the workspace."""

    def __init__(self, database: Database) -> None:
        self.database = database
        database.create(SCHEMA)

    def experiment(self, name: str) -> Row:
        """Return an experiment by name.

        :raises NotFoundError: when there is none.
        """
        row = self.database.one("select * from experiments where name = ?", name)
        if row is None:
            raise NotFoundError(f"Experiment {name} could not be found.", code="UserError")
        return row

    def experiment_by_id(self, experiment_id: str) -> Row:
        """Return an experiment by id.

        :raises NotFoundError: when there is none.
        """
        row = self.database.one("select * from experiments where experiment_id = ?", experiment_id)
        if row is None:
            raise NotFoundError(f"Experiment with id {experiment_id} could not be found.", code="UserError")
        return row

    def make_experiment(self, name: str) -> Row:
        """Return the experiment of this name, made when it is missing."""
        check_name(name, RESOURCE, "experiment")
        with self.database.write() as connection:
            connection.execute(
                "insert or ignore into experiments values (?, ?, ?)", (str(uuid.uuid4()), name, utc_text())
            )
        return self.experiment(name)

    def experiments(self, top: int, offset: int) -> tuple[list[Row], int | None]:
        """Return one page of experiments by name, and the offset of the next page or ``None``."""
        top = max(1, min(top, LARGEST_PAGE))
        rows = self.database.all("select * from experiments order by name limit ? offset ?", top + 1, offset)
        return rows[:top], offset + top if len(rows) > top else None

    def run(self, run_id: str) -> Row:
        """Return a run.

        :raises NotFoundError: when there is none.
        """
        row = self.database.one("select * from runs where run_id = ?", run_id)
        if row is None:
            raise NotFoundError(f"Run {run_id} was not found.", code="UserError")
        return row

    def merge(self, experiment_id: str, run_id: str, changes: dict[str, Any], *, with_status: bool) -> Row:
        """Make a run or change one: tags and properties are joined, the rest replaced.

        :param changes: fields as the wire names them; unknown ones are left alone.
        :param with_status: whether the sender's word on the status counts.
        """
        with self.database.write() as connection:
            row = self.added(connection, experiment_id, run_id, str(changes.get("parentRunId") or ""))
            connection.execute(
                "update runs set tags = :tags, properties = :properties, name = :name, description = :description,"
                " script_name = :script_name, target = :target, run_type = :run_type where run_id = :run_id",
                _merged(row, changes),
            )
            if with_status and changes.get("status"):
                self.move(connection, run_id, changes["status"])
        return self.run(run_id)

    def added(self, connection: sqlite3.Connection, experiment_id: str, run_id: str, parent: str = "") -> Row:
        """Return the run, made as NotStarted when it is missing, inside a transaction."""
        check_name(run_id, RUN_ID, "run")
        found: Row | None = connection.execute("select * from runs where run_id = ?", (run_id,)).fetchone()
        if found is not None:
            if found["experiment_id"] != experiment_id:
                raise BadRequestError(f"Run {run_id} belongs to another experiment.")
            return found
        root = run_id
        if parent:
            above = connection.execute("select root_run_id from runs where run_id = ?", (parent,)).fetchone()
            if above is None:
                raise BadRequestError(f"The parent run {parent} was not found.")
            root = above["root_run_id"]
        connection.execute(
            "insert into runs (run_id, experiment_id, status, created, parent_run_id, root_run_id, run_type)"
            " values (?, ?, 'NotStarted', ?, ?, ?, 'azureml.scriptrun')",
            (run_id, experiment_id, utc_text(), parent or None, root),
        )
        made: Row = connection.execute("select * from runs where run_id = ?", (run_id,)).fetchone()
        return made

    def set_status(self, run_id: str, status: str, error: dict[str, Any] | None = None) -> bool:
        """Move a run on; a run that has ended stays as it ended.

        :param error: how it failed; one that the run reported itself is kept instead.
        :return: whether the run was still going.
        """
        with self.database.write() as connection:
            return self.move(connection, run_id, status, error)

    def move(
        self, connection: sqlite3.Connection, run_id: str, status: str, error: dict[str, Any] | None = None
    ) -> bool:
        """Do :meth:`set_status` inside a transaction."""
        if status not in STATES:
            raise BadRequestError(f"{status!r} is not a run status; those are {', '.join(STATES)}.")
        changed = connection.execute(
            "update runs set status = :status,"
            " started = coalesce(started, iif(:status in ('Running', 'Completed', 'Failed'), :now, null)),"
            " ended = iif(:status in ('Completed', 'Failed', 'Canceled'), :now, ended),"
            " error = coalesce(error, :error)"
            " where run_id = :run_id and status not in ('Completed', 'Failed', 'Canceled')",
            {"status": status, "now": utc_text(), "run_id": run_id, "error": json.dumps(error) if error else None},
        ).rowcount
        return bool(changed)

    def set_error(self, run_id: str, error: dict[str, Any]) -> None:
        """Keep what the run itself reported as its error; the last report counts."""
        with self.database.write() as connection:
            connection.execute("update runs set error = ? where run_id = ?", (json.dumps(error), run_id))

    def drop_tags(self, run_id: str, names: list[str]) -> Row:
        """Take tags off a run."""
        with self.database.write() as connection:
            row = connection.execute("select tags from runs where run_id = ?", (run_id,)).fetchone()
            if row is not None:
                left = {name: value for name, value in json.loads(row["tags"]).items() if name not in names}
                connection.execute("update runs set tags = ? where run_id = ?", (json.dumps(left), run_id))
        return self.run(run_id)

    def query(
        self, experiment_id: str, text: str, orderby: str | list[str] | None, top: int, after: Position
    ) -> tuple[list[Row], Position | None]:
        """Return one page of runs.

        :param text: a filter.
        :param top: at most this many, and never more than a page holds.
        :param after: where the page begins.
        :return: the runs, and where the next page begins, or ``None``.
        """
        condition, values = where(text)
        newest = after.newest
        if newest is None:
            newest = self.database.all("select coalesce(max(run_number), 0) as newest from runs")[0]["newest"]
        top = max(1, min(top, LARGEST_PAGE))
        rows = self.database.all(
            f"select * from runs where experiment_id = ? and run_number <= ? and ({condition}) order by {order(orderby)} limit ? offset ?",  # noqa: S608  # made of fixed words, the values are bound
            experiment_id,
            newest,
            *values,
            top + 1,
            after.offset,
        )
        return rows[:top], Position(after.offset + top, newest) if len(rows) > top else None


def _merged(row: Row, changes: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settable columns with the changes in them."""
    values = dict(row)
    for name in ("tags", "properties"):
        values[name] = json.dumps(json.loads(row[name]) | (changes.get(name) or {}))
    sent = {column: changes[name] for name, column in SETTABLE.items() if changes.get(name) is not None}
    return values | sent
