"""Metrics as they arrive: batches of values of one name, each value known by its id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.errors import BadRequestError, NotFoundError
from local_site.azure_ml.web import field_of

if TYPE_CHECKING:
    from local_site.azure_ml.database import Database

SCHEMA = """
create table if not exists metrics (
    run_id text not null, name text not null, columns text not null, kind text not null,
    primary key (run_id, name)
) without rowid;
create table if not exists metric_values (
    position integer primary key, run_id text not null, name text not null, metric_id text not null,
    created text not null, step integer, data text not null, unique (run_id, name, metric_id)
);
"""


class Metrics:
    """Every metric of every run."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(SCHEMA)

    def add(self, run_id: str, batches: list[dict[str, Any]]) -> None:
        """Keep values; one that was already kept (a repeated request) is not kept twice.

        :param batches: as the SDK sends them: ``name``, ``columns``, ``properties.uxMetricType`` and ``value[]``.
        :raises BadRequestError: when a batch is shaped differently; nothing is kept then.
        """
        with self._database.write() as connection:
            for batch in batches:
                name = field_of(batch, "name", str)
                columns = json.dumps(field_of(batch, "columns", dict, {}))
                kind = field_of(field_of(batch, "properties", dict, {}), "uxMetricType", str, "")
                connection.execute("insert or replace into metrics values (?, ?, ?, ?)", (run_id, name, columns, kind))
                for value in field_of(batch, "value", list, []):
                    if not isinstance(value, dict):
                        raise BadRequestError(f"Every value of the metric {name} must be an object.")
                    step = None if value.get("step") is None else field_of(value, "step", int)
                    connection.execute(
                        "insert or ignore into metric_values (run_id, name, metric_id, created, step, data)"
                        " values (?, ?, ?, ?, ?, ?)",
                        (
                            run_id,
                            name,
                            field_of(value, "metricId", str),
                            field_of(value, "createdUtc", str, utc_text()),
                            step,
                            json.dumps(field_of(value, "data", dict)),
                        ),
                    )

    def names(self, run_id: str) -> list[dict[str, Any]]:
        """Return the name and columns of each metric of a run."""
        rows = self._database.all("select * from metrics where run_id = ? order by name", run_id)
        return [{"metricKey": {"name": row["name"]}, "columns": json.loads(row["columns"])} for row in rows]

    def full(self, run_id: str, name: str) -> dict[str, Any]:
        """Return every value of one metric, in the order they came.

        :raises NotFoundError: when the run has no such metric.
        """
        metric = self._database.one("select * from metrics where run_id = ? and name = ?", run_id, name)
        if metric is None:
            raise NotFoundError(f"Run {run_id} has no metric named {name}.")
        rows = self._database.all(
            "select * from metric_values where run_id = ? and name = ? order by position", run_id, name
        )
        values = [
            {
                "metricId": row["metric_id"],
                "createdUtc": row["created"],
                "step": row["step"],
                "data": json.loads(row["data"]),
            }
            for row in rows
        ]
        return {
            "dataContainerId": f"dcid.{run_id}",
            "name": name,
            "columns": json.loads(metric["columns"]),
            "properties": {"uxMetricType": metric["kind"]},
            "value": values,
            "continuationToken": None,
        }
