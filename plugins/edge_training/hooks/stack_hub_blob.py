"""Azure Stack Hub's blob storage, the only place where the data is."""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from azure.core import MatchConditions
from azure.core.credentials import AzureSasCredential
from azure.storage.blob import BlobServiceClient, ExponentialRetry

from edge_training.exceptions import ConfigurationError, DataVerificationError, ServiceError
from edge_training.hooks.blob_account import BlobAccount, account_from_connection, sign_read_url
from edge_training.hooks.blob_errors import BLOB_ERRORS, BlobCall, map_blob_error
from edge_training.hooks.connections import ConnectionSettings, read_connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from azure.storage.blob import BlobProperties, StorageStreamDownloader

# The newest that Stack Hub 2008 and later accepts; the SDK's own default is refused by every Stack Hub of that age.
DEFAULT_API_VERSION = "2019-07-07"
# The client builds each request for one of these and cannot for an older one.
_OLDEST_API_VERSION = "2019-02-02"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIECE_BYTES = 4 * 1024 * 1024
_EMPTY_STATUS = 416  # there is no first byte in an empty blob

# One line per request at INFO would bury what an operator says in the task's log.
logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(logging.WARNING)


@dataclass(frozen=True)
class StoredBlob:
    """A blob as the store lists it.

    :param name: its full name in the container.
    :param size: bytes.
    :param etag: with its quotes, as ``If-Match`` wants it.
    :param last_modified: with time zone.
    :param stored_hash: ``"sha256:<hex>"`` from the blob's metadata, ``"md5:<hex>"`` from its Content-MD5, or ``""``.
    """

    name: str
    size: int
    etag: str
    last_modified: datetime
    stored_hash: str


class StackHubBlobHook(BaseHook):
    """Reads from the blob storage of an Azure Stack Hub, and signs permission to read single blobs.

    The connection (type ``wasb``): host is the endpoint, ``https://account.blob.region.fqdn[:port]`` or
    ``https://host:port/account``; login the account's name; the credential is one of password (account key), extra
    ``sas_token`` and extra ``connection_string``. Extra ``ca_certificate`` is the path of a PEM file when the endpoint's
    certificate is signed by a private authority, ``api_version`` the version to speak (default 2019-07-07).

    A store that is down is noticed within ``CONNECT_SECONDS`` per try and a silent one within ``READ_SECONDS``; a request is
    tried ``1 + RETRIES`` times, a second or two apart.

    :param conn_id: the Airflow connection's id.
    :raises ConfigurationError: by every method, when the connection is wrong.
    :raises ServiceError: by every method that asks the store, when it refuses or does not answer.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "stack_hub_blob"
    conn_type = "wasb"
    hook_name = "Azure Stack Hub Blob Storage"
    extras = frozenset({"api_version", "ca_certificate", "sas_token", "connection_string"})

    CONNECT_SECONDS = 5
    READ_SECONDS = 30
    RETRIES = 2

    def __init__(self, conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.conn_id = conn_id

    @cached_property
    def connection(self) -> ConnectionSettings:
        """Return the checked connection."""
        return read_connection(
            self.conn_id, {self.conn_type}, self.extras, secret_extras={"sas_token", "connection_string"}
        )

    @cached_property
    def account(self) -> BlobAccount:
        """Return the storage account that the connection names."""
        return account_from_connection(self.connection)

    @property
    def account_url(self) -> str:
        """Return the blob endpoint without any permission."""
        return self.account.endpoint

    @property
    def api_version(self) -> str:
        """Return the storage service version that every request and signature names."""
        version = self.connection.text("api_version", DEFAULT_API_VERSION)
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", version) or version < _OLDEST_API_VERSION:
            raise ConfigurationError(
                f"Extra api_version of connection '{self.conn_id}' is '{version}', expected a date of {_OLDEST_API_VERSION} or "
                "later: 2019-07-07 for Stack Hub 2008 and later, 2019-02-02 for Stack Hub 2005. A Stack Hub older than 2005 "
                "accepts at most 2017-11-09, which this client cannot speak."
            )
        return version

    @property
    def ca_certificate(self) -> str:
        """Return the path of the private authority's PEM file, or ``""`` when the system's authorities are meant."""
        path = self.connection.text("ca_certificate")
        if path and not Path(path).is_file():
            raise ConfigurationError(
                f"Extra ca_certificate of connection '{self.conn_id}' is '{path}', and there is no such file on this machine."
            )
        return path

    def ca_pem(self) -> str:
        """Return the text of the private authority's PEM file, or ``""``; the VM needs it to reach the same endpoint."""
        return Path(self.ca_certificate).read_text(encoding="ascii") if self.ca_certificate else ""

    def service(self) -> BlobServiceClient:
        """Return the SDK's client, with the connection's version, authority, timeouts and retries."""
        return self._service

    @cached_property
    def _service(self) -> BlobServiceClient:
        account = self.account
        # The name is given with the key because the SDK finds it only in hosts of the public cloud.
        credential = (
            AzureSasCredential(account.sas)
            if account.sas
            else {"account_name": account.name, "account_key": account.key}
        )
        options: dict[str, Any] = {"connection_verify": self.ca_certificate} if self.ca_certificate else {}
        try:
            return BlobServiceClient(
                account.endpoint,
                credential=credential,
                api_version=self.api_version,
                connection_timeout=self.CONNECT_SECONDS,
                read_timeout=self.READ_SECONDS,
                retry_policy=ExponentialRetry(
                    initial_backoff=1, increment_base=2, random_jitter_range=1, retry_total=self.RETRIES
                ),
                max_single_get_size=_PIECE_BYTES,
                max_chunk_get_size=_PIECE_BYTES,
                **options,
            )
        except ValueError:
            raise ConfigurationError(
                f"The blob client cannot speak API version {self.api_version}: correct the extra api_version of connection "
                f"'{self.conn_id}'."
            ) from None

    def list_blobs(self, container: str, prefix: str = "") -> list[StoredBlob]:
        """List the blobs whose names begin with the prefix, sorted by name, however many pages that takes.

        :param container: the blob container.
        :param prefix: what the names begin with.
        """
        what = f"the blobs of container '{container}' below '{prefix}'"
        with self._mapped(what):
            pages = (
                self.service().get_container_client(container).list_blobs(name_starts_with=prefix, include=["metadata"])
            )
            return sorted((_stored(blob) for blob in pages), key=lambda blob: blob.name)

    def read(self, container: str, name: str, max_bytes: int) -> bytes:
        """Return a whole blob.

        :param container: the blob container.
        :param name: the blob's full name.
        :param max_bytes: the most that it may be.
        :raises DataVerificationError: when it is bigger.
        """
        # One byte more than allowed tells a blob that is too big from one that just fits.
        content = self.read_head(container, name, max_bytes + 1)
        if len(content) > max_bytes:
            raise DataVerificationError(
                f"Blob '{name}' in container '{container}' is bigger than the {max_bytes} bytes it may be."
            )
        return content

    def read_head(self, container: str, name: str, size: int, etag: str | None = None) -> bytes:
        """Return the first bytes of a blob.

        :param container: the blob container.
        :param name: the blob's full name.
        :param size: how many bytes at most.
        :param etag: the ETag that it must still have.
        """
        try:
            with self._mapped(_blob(container, name)):
                return self._download(container, name, etag, offset=0, length=size).readall()
        except ServiceError as error:
            if error.status == _EMPTY_STATUS:
                return b""
            raise

    def hash_of(self, container: str, blob: StoredBlob) -> str:
        """Return ``"sha256:<hex>"`` or ``"md5:<hex>"``: the hash that is stored with the blob, else that of its contents.

        The contents are hashed in pieces of 4 MiB, under the condition that the ETag is the listed one.

        :param container: the blob container.
        :param blob: the blob as it was listed.
        """
        if blob.stored_hash:
            return blob.stored_hash
        digest = hashlib.sha256()
        with self._mapped(_blob(container, blob.name)):
            for piece in self._download(container, blob.name, blob.etag).chunks():
                digest.update(piece)
        return f"sha256:{digest.hexdigest()}"

    def sign_read_url(self, container: str, blob: str, expires: datetime) -> str:
        """Return an address with which the VM can read this one blob until the permission expires.

        :param container: the blob container.
        :param blob: the blob's full name.
        :param expires: with time zone.
        :raises ConfigurationError: when the connection holds a SAS that may not be handed on.
        """
        return sign_read_url(self.account, container, blob, expires, self.api_version)

    def _download(
        self, container: str, name: str, etag: str | None, offset: int | None = None, length: int | None = None
    ) -> StorageStreamDownloader[bytes]:
        condition: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
        client = self.service().get_blob_client(container, name)
        return client.download_blob(offset=offset, length=length, max_concurrency=1, **condition)

    @contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        call = BlobCall(self.conn_id, self.account_url, self.api_version, what, self.account.sas_expiry)
        try:
            yield
        except BLOB_ERRORS as error:
            # The SDK's own error is not chained: its text holds the request's address, and so the SAS.
            raise map_blob_error(error, call) from None


def _blob(container: str, name: str) -> str:
    return f"blob '{name}' in container '{container}'"


def _stored(blob: BlobProperties) -> StoredBlob:
    etag = str(blob.etag)
    return StoredBlob(
        name=blob.name,
        size=blob.size,
        etag=etag if etag.startswith('"') else f'"{etag}"',
        last_modified=blob.last_modified,
        stored_hash=_stored_hash(blob),
    )


def _stored_hash(blob: BlobProperties) -> str:
    metadata = {key.lower(): value for key, value in (blob.metadata or {}).items()}
    sha256 = (metadata.get("sha256") or "").strip().lower()
    if _SHA256.fullmatch(sha256):
        return f"sha256:{sha256}"
    md5 = blob.content_settings.content_md5
    return f"md5:{bytes(md5).hex()}" if md5 else ""
