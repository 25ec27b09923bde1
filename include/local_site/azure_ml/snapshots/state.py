"""Snapshots: a list of files with their blobs, whole even when only what changed was sent."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.blobs.state import CHUNK, Blobs
from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.errors import BadRequestError, ConflictError, NotFoundError
from local_site.azure_ml.names import check_path
from local_site.azure_ml.web import field_of

if TYPE_CHECKING:
    from local_site.azure_ml.database import Database

NONE = "00000000-0000-0000-0000-000000000000"
MOST_FILES = 20_000
DEEPEST = 64

SCHEMA = """
create table if not exists snapshots (
    snapshot_id text primary key, parent text, files text not null, folders text not null, digest text not null,
    created text not null
) without rowid;
create table if not exists snapshot_archives (snapshot_id text primary key, blob text not null) without rowid;
"""


class Snapshots:
    """Every snapshot of the workspace."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        database.create(SCHEMA)

    def add(self, snapshot_id: str, parent: str, tree: dict[str, Any], changed: dict[str, str]) -> None:
        """Keep a snapshot. The same one again is accepted: a client repeats what it got no answer for.

        :param tree: ``DirTreeNode``, the folder as it shall be.
        :param changed: the blobs of new and changed files, by name.
        :raises BadRequestError: when a name would leave the folder, or a file of the tree was neither sent nor in the parent.
        :raises ConflictError: when another snapshot has this id.
        """
        names, folders = walk(tree)
        known = self.files(parent) if parent and parent != NONE else {}
        blobs = known | changed
        missing = [name for name in names if name not in blobs or not self._blobs.exists(blobs[name])]
        if missing:
            raise BadRequestError(f"The snapshot lacks the content of {', '.join(sorted(missing)[:5])}.")
        files = {name: blobs[name] for name in sorted(names)}
        digest = self._digest(files, folders)
        with self._database.write() as connection:
            held = connection.execute("select digest from snapshots where snapshot_id = ?", (snapshot_id,)).fetchone()
            if held is not None and held["digest"] != digest:
                raise ConflictError(f"Another snapshot has the id {snapshot_id}.")
            connection.execute(
                "insert or ignore into snapshots values (?, ?, ?, ?, ?, ?)",
                (snapshot_id, parent, json.dumps(files), json.dumps(folders), digest, utc_text()),
            )

    def files(self, snapshot_id: str) -> dict[str, str]:
        """Return the blob of each file, by name.

        :raises NotFoundError: when there is no such snapshot.
        """
        files: dict[str, str] = json.loads(self._row(snapshot_id)["files"])
        return files

    def all_blobs(self) -> set[str]:
        """Return the key of every blob that any snapshot holds."""
        files = self._database.all("select files from snapshots")
        archives = self._database.all("select blob from snapshot_archives")
        return {key for row in files for key in json.loads(row["files"]).values()} | {row["blob"] for row in archives}

    def archive(self, snapshot_id: str) -> str:
        """Return the blob with the whole snapshot as a ZIP file, made when it is asked for first.

        :raises NotFoundError: when there is no such snapshot.
        """
        row = self._row(snapshot_id)
        made = self._database.one("select blob from snapshot_archives where snapshot_id = ?", snapshot_id)
        if made is not None:
            return str(made["blob"])
        key = self._blobs.new_key()
        with tempfile.TemporaryFile(dir=self._blobs.drafts) as draft:
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in json.loads(row["folders"]):
                    archive.writestr(f"{name}/", b"")
                for name, blob in json.loads(row["files"]).items():
                    archive.write(self._blobs.path(blob), name)
            draft.seek(0)
            self._blobs.write(key, iter(lambda: draft.read(CHUNK), b""))
        with self._database.write() as connection:
            connection.execute("insert or replace into snapshot_archives values (?, ?)", (snapshot_id, key))
        return key

    def folders(self, snapshot_id: str) -> list[str]:
        """Return the folders, the empty ones too."""
        folders: list[str] = json.loads(self._row(snapshot_id)["folders"])
        return folders

    def digest(self, snapshot_id: str) -> str:
        """Return a hash over names and contents: two snapshots of the same files have the same."""
        return str(self._row(snapshot_id)["digest"])

    def _row(self, snapshot_id: str) -> Any:
        row = self._database.one("select * from snapshots where snapshot_id = ?", snapshot_id)
        if row is None:
            raise NotFoundError(f"Snapshot {snapshot_id} was not found in this workspace.", code="SnapshotNotFound")
        return row

    def _digest(self, files: dict[str, str], folders: list[str]) -> str:
        whole = hashlib.sha256(json.dumps(folders).encode())
        for name, blob in files.items():
            content = hashlib.sha256()
            with self._blobs.path(blob).open("rb") as stream:
                while piece := stream.read(CHUNK):
                    content.update(piece)
            whole.update(f"{name}\0{content.hexdigest()}\n".encode())
        return whole.hexdigest()


def walk(tree: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of all files and of all folders in a tree.

    :raises BadRequestError: when a name is not allowed, or there are too many.
    """
    files: list[str] = []
    folders: list[str] = []
    waiting: list[tuple[str, dict[str, Any], int]] = [("", tree, 0)]
    while waiting:
        above, node, depth = waiting.pop()
        for name, child in field_of(node, "children", dict, {}).items():
            if "/" in name or not isinstance(child, dict) or depth > DEEPEST:
                raise BadRequestError(f"The snapshot's tree is not in order at {above}{name}.")
            path = check_path(f"{above}{name}", "snapshot file")
            if child.get("type") == "Directory":
                folders.append(path)
                waiting.append((f"{path}/", child, depth + 1))
            else:
                files.append(path)
    if len(files) + len(folders) > MOST_FILES:
        raise BadRequestError(f"A snapshot may have at most {MOST_FILES} files and folders.")
    return sorted(files), sorted(folders)
