"""Where a site's receipts are kept: on premises, in a container of blobs of their own, under names that are written once.

Beside them is a note for each run of what it was submitted with (:mod:`edge_training.residency.submitted`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import ContentSettings

from edge_training.exceptions import ServiceError
from edge_training.hooks.stack_hub_blob import StackHubBlobHook
from edge_training.residency import submitted

if TYPE_CHECKING:
    from datetime import datetime

_NAME = re.compile(r"(?P<site>[a-z][a-z0-9_]{0,39})/(?P<sequence>\d{8})\.json")
_LARGEST_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class StoredReceipt:
    """A receipt as the store lists it; nothing here is trusted before its signature was checked.

    :param name: its name in the container.
    :param sequence: the number in its name.
    :param run_id: the run that it says it is for.
    """

    name: str
    sequence: int
    run_id: str


class ReceiptStore(StackHubBlobHook):
    """Keeps receipts in a blob container. The connection's credential must be one that may write: the account key, or a SAS for it.

    Whoever holds the account key can delete blobs: what proves that nothing was deleted is the chain of the receipts and their digests on
    runs, models and images, not this store.

    :param container: the blob container; it is made when it does not exist.
    :param conn_id: the Airflow connection of the blob storage.
    """

    def __init__(self, container: str, conn_id: str = StackHubBlobHook.default_conn_name) -> None:
        super().__init__(conn_id)
        self.container = container

    def name_of(self, site: str, sequence: int) -> str:
        """Return the name of a site's receipt.

        :param site: the site's name.
        :param sequence: its number, from 1.
        """
        return f"{site}/{sequence:08d}.json"

    def receipts(self, site: str) -> list[StoredReceipt]:
        """Return the receipts of a site, by number; makes the container when it does not exist.

        :param site: the site's name.
        :raises ServiceError: when the store cannot be asked.
        """
        try:
            return self._receipts(site)
        except ServiceError as error:
            if error.status != 404:
                raise
        self._make_container()
        return self._receipts(site)

    def receipt(self, name: str) -> bytes:
        """Return a receipt as it is stored.

        :param name: its name.
        :raises ServiceError: when it is not there or the store cannot be asked.
        """
        return self.read(self.container, name, _LARGEST_BYTES)

    def add(self, name: str, content: bytes, run_id: str) -> bool:
        """Store a receipt under a name that nobody has used, and tell whether that was so.

        :param name: its name.
        :param content: the receipt.
        :param run_id: the run that it is for.
        :raises ServiceError: when the store refuses or cannot be asked.
        """
        with self._mapped(f"receipt '{name}' in container '{self.container}'"):
            client = self.service().get_blob_client(self.container, name)
            try:
                # "If-None-Match: *" is what overwrite=False sends: of two that write at once, the store takes one.
                client.upload_blob(
                    content,
                    overwrite=False,
                    metadata={"run_id": run_id},
                    content_settings=ContentSettings(content_type="application/json"),
                )
            except ResourceExistsError:
                return False
        return True

    def note(self, site: str, run_id: str, content: bytes) -> None:
        """Write down what a run is about to be submitted with; makes the container when it does not exist.

        :param site: the site's name.
        :param run_id: the run's id; it does not exist yet, so what an earlier try has written for it is replaced.
        :param content: the note.
        :raises ServiceError: when the store refuses or cannot be asked.
        """
        try:
            self._write_note(site, run_id, content)
        except ServiceError as error:
            if error.status != 404:
                raise
            self._make_container()
            self._write_note(site, run_id, content)

    def noted(self, site: str, run_id: str) -> bytes | None:
        """Return what was written down about a run, or ``None`` when nothing was.

        :param site: the site's name.
        :param run_id: the run's id.
        :raises ServiceError: when the store cannot be asked.
        """
        try:
            return self.read(self.container, _note_name(site, run_id), _LARGEST_BYTES)
        except ServiceError as error:
            if error.status != 404:
                raise
            return None

    def notes(self, site: str, since: datetime) -> list[str]:
        """Return the ids of the runs that were about to be submitted, none when there is no container yet.

        :param site: the site's name.
        :param since: those that were written down before are left out.
        :raises ServiceError: when the store cannot be asked.
        """
        folder = f"{submitted.FOLDER}/{site}/"
        try:
            with self._mapped(f"what was submitted by site '{site}', in container '{self.container}'"):
                client = self.service().get_container_client(self.container)
                return [
                    blob.name.removeprefix(folder).removesuffix(".json")
                    for blob in client.list_blobs(name_starts_with=folder)
                    if blob.last_modified >= since
                ]
        except ServiceError as error:
            if error.status != 404:
                raise
            return []

    def _write_note(self, site: str, run_id: str, content: bytes) -> None:
        name = _note_name(site, run_id)
        with self._mapped(f"note '{name}' in container '{self.container}'"):
            client = self.service().get_blob_client(self.container, name)
            client.upload_blob(
                content, overwrite=True, content_settings=ContentSettings(content_type="application/json")
            )

    def _receipts(self, site: str) -> list[StoredReceipt]:
        what = f"the receipts of site '{site}' in container '{self.container}'"
        found = []
        with self._mapped(what):
            client = self.service().get_container_client(self.container)
            for blob in client.list_blobs(name_starts_with=f"{site}/", include=["metadata"]):
                if match := _NAME.fullmatch(blob.name):
                    run_id = str((blob.metadata or {}).get("run_id", ""))
                    found.append(StoredReceipt(blob.name, int(match["sequence"]), run_id))
        return sorted(found, key=lambda one: one.sequence)

    def _make_container(self) -> None:
        with self._mapped(f"a new container '{self.container}'"):
            try:
                self.service().create_container(self.container)
            except ResourceExistsError:
                return
            self.log.info("Made the container '%s' for receipts.", self.container)


def _note_name(site: str, run_id: str) -> str:
    return f"{submitted.FOLDER}/{site}/{run_id}.json"
