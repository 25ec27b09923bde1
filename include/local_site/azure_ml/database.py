"""SQLite as the server's memory: what a transaction committed survives the process and the machine."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row = sqlite3.Row


class Database:
    """One file, one connection per thread, one writer at a time.

    :param path: the database file; it is made readable by its owner only.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.local()
        self._writer = threading.Lock()
        path.touch(mode=0o600)
        self._connection().execute("pragma journal_mode = wal")

    def create(self, schema: str) -> None:
        """Make the tables of one service when they are missing.

        :param schema: ``create table if not exists`` statements.
        """
        with self._writer:
            self._connection().executescript(schema)

    def all(self, statement: str, *values: Any) -> list[Row]:
        """Return every row of a query."""
        return self._connection().execute(statement, values).fetchall()

    def one(self, statement: str, *values: Any) -> Row | None:
        """Return the first row of a query, or ``None``."""
        row: Row | None = self._connection().execute(statement, values).fetchone()
        return row

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction: committed and on disk when the block ends well, undone when it raises."""
        connection = self._connection()
        with self._writer:
            connection.execute("begin immediate")
            try:
                yield connection
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")

    def empty(self, keep: tuple[str, ...]) -> None:
        """Remove every row of every table, in one transaction.

        :param keep: the tables that are left alone.
        """
        tables = self.all("select name from sqlite_schema where type = 'table' and name not like 'sqlite_%'")
        with self.write() as connection:
            for row in tables:
                if row["name"] not in keep:
                    connection.execute(f'delete from "{row["name"]}"')  # noqa: S608  # the name of a table of ours

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
            connection.row_factory = Row
            connection.execute("pragma synchronous = full")
            self._threads.connection = connection
        return connection
