"""Attached virtual machines, and the long-running operations that attach and detach them."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.errors import NotFoundError
from local_site.azure_ml.ssh import Login, VMError, logged_in

if TYPE_CHECKING:
    from local_site.azure_ml.database import Database, Row
    from local_site.azure_ml.settings import Settings

log = logging.getLogger("local_site.azure_ml")

SCHEMA = """
create table if not exists computes (
    name text primary key, address text not null, port integer not null, username text not null,
    password text not null, private_key text not null, passphrase text not null,
    resource_id text, description text, tags text not null,
    host_key text not null, state text not null, error text, created text not null, modified text not null
) without rowid;
create table if not exists operations (
    operation_id text primary key, compute text not null, status text not null, error text, created text not null
) without rowid;
"""


class Computes:
    """Every compute target of the workspace.

    :param settings: where VMs are that are attached by resource id.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        database.create(SCHEMA)

    def get(self, name: str) -> Row:
        """Return a compute.

        :raises NotFoundError: when there is none of this name.
        """
        row = self._database.one("select * from computes where name = ?", name)
        if row is None:
            raise NotFoundError(f"Compute with name {name} was not found in the workspace.", code="ComputeNotFound")
        return row

    def all(self) -> list[Row]:
        """Return every compute by name."""
        return self._database.all("select * from computes order by name")

    def login(self, name: str) -> Login:
        """Return how to log in to a compute.

        :raises NotFoundError: when there is none of this name.
        """
        row = self.get(name)
        return Login(
            row["address"],
            row["port"],
            row["username"],
            row["password"],
            row["private_key"],
            row["passphrase"],
            row["host_key"],
        )

    def attach(self, name: str, login: Login, facts: dict[str, Any], wait: float) -> str:
        """Keep a compute, and log in to it once to see whether it is there and which key it shows.

        The key of a machine that is attached already (same address and port) stays pinned.

        :param facts: ``resourceId``, ``description``, ``tags``.
        :param wait: seconds to wait for the outcome; it goes on afterwards.
        :return: the id of the operation that tells the outcome.
        """
        operation = uuid.uuid4().hex
        with self._database.write() as connection:
            before = connection.execute("select * from computes where name = ?", (name,)).fetchone()
            same = before is not None and (before["address"], before["port"]) == (login.address, login.port)
            login = replace(login, host_key=before["host_key"] if same else "")
            created = before["created"] if before is not None else utc_text()
            connection.execute(
                "insert or replace into computes values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'Creating', null, ?, ?)",
                (
                    name,
                    login.address,
                    login.port,
                    login.user,
                    login.password,
                    login.private_key,
                    login.passphrase,
                    facts.get("resourceId"),
                    facts.get("description"),
                    json.dumps(facts.get("tags") or {}),
                    login.host_key,
                    created,
                    utc_text(),
                ),
            )
            self._begin(connection, operation, name)
        worker = threading.Thread(target=self._try_login, args=(name, login, operation), daemon=True)
        worker.start()
        worker.join(wait)
        return operation

    def detach(self, name: str) -> str:
        """Forget a compute.

        :return: the id of an operation, which has succeeded already.
        :raises NotFoundError: when there is none of this name.
        """
        self.get(name)
        operation = uuid.uuid4().hex
        with self._database.write() as connection:
            connection.execute("delete from computes where name = ?", (name,))
            connection.execute(
                "update operations set status = 'Canceled' where compute = ? and status = 'InProgress'", (name,)
            )
            self._begin(connection, operation, name)
            connection.execute("update operations set status = 'Succeeded' where operation_id = ?", (operation,))
        return operation

    def operation(self, operation: str) -> Row:
        """Return an operation.

        :raises NotFoundError: when there is none of this id.
        """
        row = self._database.one("select * from operations where operation_id = ?", operation)
        if row is None:
            raise NotFoundError(f"Operation {operation} was not found.")
        return row

    def _try_login(self, name: str, login: Login, operation: str) -> None:
        error: VMError | None = None
        seen = login.host_key
        try:
            with logged_in(login) as vm:
                seen = vm.host_key
        except VMError as failure:
            error = failure
            log.warning("attach of %s failed: %s", name, failure)
        fault = json.dumps({"code": error.code, "message": error.message}) if error else None
        status = "Failed" if error else "Succeeded"
        with self._database.write() as connection:
            connection.execute(
                "update computes set state = ?, error = ?, host_key = ?, modified = ? where name = ?",
                (status, fault, seen, utc_text(), name),
            )
            connection.execute(
                "update operations set status = ?, error = ? where operation_id = ? and status = 'InProgress'",
                (status, fault, operation),
            )

    def resume(self) -> None:
        """Finish the attaches that an earlier process did not live to finish."""
        for row in self._database.all("select * from operations where status = 'InProgress'"):
            arguments = (row["compute"], self.login(row["compute"]), row["operation_id"])
            threading.Thread(target=self._try_login, args=arguments, daemon=True).start()

    @staticmethod
    def _begin(connection: Any, operation: str, name: str) -> None:
        connection.execute("insert into operations values (?, ?, 'InProgress', null, ?)", (operation, name, utc_text()))
