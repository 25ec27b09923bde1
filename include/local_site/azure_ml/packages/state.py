"""Package operations: what was asked for, how far it is, and what came of it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.errors import BadRequestError, NotFoundError
from local_site.azure_ml.web import field_of

if TYPE_CHECKING:
    from local_site.azure_ml.artifacts.state import Artifact, Artifacts
    from local_site.azure_ml.database import Database, Row
    from local_site.azure_ml.models.state import Models

SCHEMA = """
create table if not exists packages (
    position integer primary key, operation_id text not null unique, kind text not null, request text not null,
    state text not null, location text, error text, log text not null, created text not null
);
"""
ARTIFACT = "aml://artifact/"


@dataclass(frozen=True)
class Asset:
    """A file that goes into a package beside the models.

    :param uri: ``aml://artifact/<origin>/<container>/<path>``.
    :param name: what it is called there.
    :param unpack: whether it is an archive to be unpacked.
    """

    artifact: Artifact
    uri: str
    name: str
    unpack: bool


class Packages:
    """Every package operation of the workspace."""

    def __init__(self, database: Database, artifacts: Artifacts, models: Models) -> None:
        self._database = database
        self._artifacts = artifacts
        self._models = models
        database.create(SCHEMA)

    def add(self, kind: str, request: dict[str, Any]) -> str:
        """Queue an operation.

        :param kind: ``DockerImage`` or ``DockerBuildContext``.
        :return: its id.
        """
        operation_id = str(uuid.uuid4())
        log = self._artifacts.blobs.new_key()
        self._artifacts.blobs.append(log, b"")
        with self._database.write() as connection:
            connection.execute(
                "insert into packages (operation_id, kind, request, state, log, created)"
                " values (?, ?, ?, 'NotStarted', ?, ?)",
                (operation_id, kind, json.dumps(request), log, utc_text()),
            )
        return operation_id

    def get(self, operation_id: str) -> Row:
        """Return an operation.

        :raises NotFoundError: when there is none of this id.
        """
        row = self._database.one("select * from packages where operation_id = ?", operation_id)
        if row is None:
            raise NotFoundError(f"Operation {operation_id} was not found.")
        return row

    def next(self) -> Row | None:
        """Return the oldest operation that has not ended: one that an earlier process began is begun again."""
        return self._database.one(
            "select * from packages where state in ('NotStarted', 'Running') order by position limit 1"
        )

    def move(self, operation_id: str, state: str, *, location: str = "", error: dict[str, Any] | None = None) -> None:
        """Keep how far an operation is."""
        with self._database.write() as connection:
            connection.execute(
                "update packages set state = ?, location = ?, error = ? where operation_id = ?",
                (state, location or None, json.dumps(error) if error else None, operation_id),
            )

    def assets(self, request: dict[str, Any]) -> list[Asset]:
        """Return the files that a request brings along.

        :raises BadRequestError: when one is not an artifact of this workspace.
        """
        found = []
        for item in field_of(request, "assets", list, []):
            if not isinstance(item, dict):
                raise BadRequestError("Every one of 'assets' must be an object.")
            uri = field_of(item, "url", str)
            name = field_of(item, "id", str)
            unpack = field_of(item, "unpack", bool, default=False)
            found.append(Asset(self._artifact(uri), uri, name, unpack))
        return found

    def model_files(self, model_id: str) -> list[tuple[str, Artifact]]:
        """Return the files of a model version, each with its path below the version's folder.

        :raises NotFoundError: when there is no such model.
        """
        model = self._models.get(model_id)
        asset = self._models.asset(model["url"].removeprefix("aml://asset/"))
        found = []
        for item in json.loads(asset["artifacts"]):
            origin, container, path = _parts(item.get("prefix") or item["id"])
            cut = path.rstrip("/").rpartition("/")[0]
            found += [
                (artifact.path.removeprefix(f"{cut}/"), artifact)
                for artifact in self._artifacts.below(origin, container, path)
            ]
        return found

    def model_folder(self, model_id: str) -> str:
        """Return where a model version lies below the folder of models.

        :raises NotFoundError: when there is no such model.
        """
        model = self._models.get(model_id)
        return f"{model['name']}/{model['version']}"

    def _artifact(self, uri: str) -> Artifact:
        try:
            return self._artifacts.get(*_parts(uri.removeprefix(ARTIFACT)))
        except (NotFoundError, ValueError) as error:
            raise BadRequestError(f"There is no file at {uri} in this workspace.") from error


def _parts(prefix: str) -> tuple[str, str, str]:
    origin, container, path = prefix.split("/", 2)
    return origin, container, path
