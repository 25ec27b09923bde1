"""Artifacts: a name in a container of an origin, and the blob with its content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.errors import ConflictError, NotFoundError
from local_site.azure_ml.names import check_path

if TYPE_CHECKING:
    import sqlite3

    from local_site.azure_ml.blobs.state import Blobs
    from local_site.azure_ml.database import Database, Row

RUN_ORIGIN = "ExperimentRun"
AFTER_SLASH = chr(ord("/") + 1)

SCHEMA = """
create table if not exists artifacts (
    origin text not null, container text not null, path text not null, blob text not null, created text not null,
    primary key (origin, container, path)
) without rowid;
"""


@dataclass(frozen=True)
class Artifact:
    """A named file.

    :param origin: ``ExperimentRun`` or ``LocalUpload``.
    :param container: the run's container, or the upload's id.
    :param path: its name.
    :param blob: the key of its content.
    :param created: when the name was taken, UTC.
    """

    origin: str
    container: str
    path: str
    blob: str
    created: str

    @property
    def id(self) -> str:
        """Return the artifact's id, by which assets and models name it."""
        return f"{self.origin}/{self.container}/{self.path}"


class Artifacts:
    """Every artifact of the workspace."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self.blobs = blobs
        database.create(SCHEMA)

    def reserve(self, origin: str, container: str, path: str) -> Artifact:
        """Take a name, or return the one that was taken and never filled, so that an upload can be repeated.

        :raises ConflictError: when a file with this name is already there.
        :raises BadRequestError: when the name would leave its container.
        """
        check_path(path, "artifact")
        with self._database.write() as connection:
            row = connection.execute(
                "select * from artifacts where origin = ? and container = ? and path = ?", (origin, container, path)
            ).fetchone()
            if row is not None and self.blobs.exists(row["blob"]):
                raise ConflictError(
                    f"Resource ConflictError: ArtifactId {_made(row).id} already exists.", code="UserError"
                )
            if row is not None:
                return _made(row)
            return _insert(connection, Artifact(origin, container, path, self.blobs.new_key(), utc_text()))

    def growing(self, origin: str, container: str, path: str) -> Artifact:
        """Return a file that the server itself appends to, such as a run's log; it exists from now on, empty or not."""
        found = self._one(origin, container, path)
        if found is None:
            with self._database.write() as connection:
                found = _insert(connection, Artifact(origin, container, path, self.blobs.new_key(), utc_text()))
        self.blobs.append(found.blob, b"")
        return found

    def forget(self, origin: str, container: str, path: str) -> None:
        """Give a name free, whether it was taken or not."""
        with self._database.write() as connection:
            connection.execute(
                "delete from artifacts where origin = ? and container = ? and path = ?", (origin, container, path)
            )

    def get(self, origin: str, container: str, path: str) -> Artifact:
        """Return one artifact.

        :raises NotFoundError: when there is no such file.
        """
        found = self._one(origin, container, path)
        if found is None or not self.blobs.exists(found.blob):
            raise NotFoundError(f"Could not find artifact with path {path} in {origin}/{container}.", code="UserError")
        return found

    def below(self, origin: str, container: str, prefix: str = "") -> list[Artifact]:
        """Return the file of exactly this name, and all files in the folder of this name; without one, all.

        :return: sorted by name; names that never got content are left out.
        """
        folder = prefix.rstrip("/")
        statement = "select * from artifacts where origin = ? and container = ?"
        values = [origin, container]
        if folder:
            statement += " and (path = ? or path >= ? and path < ?)"
            values += [folder, f"{folder}/", f"{folder}{AFTER_SLASH}"]
        found = [_made(row) for row in self._database.all(f"{statement} order by path", *values)]
        return [artifact for artifact in found if self.blobs.exists(artifact.blob)]

    def _one(self, origin: str, container: str, path: str) -> Artifact | None:
        statement = "select * from artifacts where origin = ? and container = ? and path = ?"
        row = self._database.one(statement, origin, container, path)
        return _made(row) if row else None


def _insert(connection: sqlite3.Connection, artifact: Artifact) -> Artifact:
    values = (artifact.origin, artifact.container, artifact.path, artifact.blob, artifact.created)
    connection.execute("insert into artifacts values (?, ?, ?, ?, ?)", values)
    return artifact


def _made(row: Row) -> Artifact:
    return Artifact(row["origin"], row["container"], row["path"], row["blob"], row["created"])
