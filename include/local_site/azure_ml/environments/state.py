"""Environments by name and version; registering the same definition again is the same version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from local_site.azure_ml.database import Database

SCHEMA = """
create table if not exists environments (
    name text not null, version text not null, number integer not null, definition text not null,
    primary key (name, version)
) without rowid;
"""


class Environments:
    """Every registered environment."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(SCHEMA)

    def register(self, name: str, version: str | None, definition: dict[str, Any]) -> dict[str, Any]:
        """Keep a definition under a version: the given one, or the next one unless the newest is the same.

        :raises ConflictError: when the given version holds something else.
        """
        text = json.dumps(definition, sort_keys=True)
        with self._database.write() as connection:
            newest = connection.execute(
                "select * from environments where name = ? order by number desc limit 1", (name,)
            ).fetchone()
            if version is None and newest is not None and newest["definition"] == text:
                return _full(name, newest["version"], definition)
            number = (newest["number"] if newest else 0) + 1
            version = version or str(number)
            held = connection.execute(
                "select definition from environments where name = ? and version = ?", (name, version)
            ).fetchone()
            if held is not None and held["definition"] != text:
                raise ConflictError(
                    f"Version {version} of environment {name} is already registered with another definition."
                )
            if held is None:
                connection.execute("insert into environments values (?, ?, ?, ?)", (name, version, number, text))
        return _full(name, version, definition)

    def get(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Return a version, or the newest.

        :raises NotFoundError: when there is none.
        """
        row = self._database.one(
            "select * from environments where name = ? and (? is null or version = ?) order by number desc limit 1",
            name,
            version,
            version,
        )
        if row is None:
            of_version = f" with version {version}" if version else ""
            raise NotFoundError(f"No environment exists for name: {name}{of_version}.", code="UserError")
        return _full(name, row["version"], json.loads(row["definition"]))

    def all(self) -> list[dict[str, Any]]:
        """Return the newest version of each."""
        rows = self._database.all("select distinct name from environments order by name")
        return [self.get(row["name"]) for row in rows]


def _full(name: str, version: str, definition: dict[str, Any]) -> dict[str, Any]:
    return {**definition, "name": name, "version": version}
