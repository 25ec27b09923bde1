"""What was arranged through the control endpoints, kept so that a restart does not undo it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_site.azure_ml.database import Database

SCHEMA = "create table if not exists control (key text primary key, value text not null) without rowid;"


class Kept:
    """A few values by name."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(SCHEMA)

    def get(self, key: str, default: Any) -> Any:
        """Return a value, or the default when none was set."""
        row = self._database.one("select value from control where key = ?", key)
        return json.loads(row["value"]) if row is not None else default

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        with self._database.write() as connection:
            connection.execute("insert or replace into control values (?, ?)", (key, json.dumps(value)))
