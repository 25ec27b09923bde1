"""The grant: a short-lived permission to read exactly the verified blobs.

The pipeline puts it on the VM over SSH, as a file that only the training account can read, because whatever travels through
Azure ML (arguments, environment, snapshot) is stored there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from edge_run.errors import GrantError
from edge_run.files import open_ordinary

VERSION = 1
MAX_GRANT_BYTES = 64 * 1024 * 1024
_CONTENT_HASH = re.compile(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")
_URL = re.compile(
    r"https://[!-~]+"
)  # printable ASCII without blanks: anything else would be quoted by http.client's errors


@dataclass(frozen=True)
class GrantedBlob:
    """One blob that may be read.

    :param name: the blob's name in its container.
    :param url: where to read it, with a credential in it: never to be printed.
    :param size: bytes.
    :param etag: the ETag it had when it was verified.
    :param content_hash: ``sha256:<hex>`` or ``md5:<hex>`` over its bytes.
    """

    name: str
    url: str
    size: int
    etag: str
    content_hash: str

    def __repr__(self) -> str:
        """Leave the URL out: it carries the credential."""
        return f"GrantedBlob({self.name!r}, {self.size} bytes)"


@dataclass(frozen=True)
class Grant:
    """A grant that was read and found good.

    :param fingerprint: ``sha256:<hex>`` over all blobs.
    :param expires: when the store stops accepting it.
    :param api_version: the ``x-ms-version`` to send.
    :param ca_pem: the private CA that signs the store's certificate, or ``""`` for the system's.
    :param columns: the header that every blob was found to have.
    :param blobs: the blobs, sorted by name.
    """

    fingerprint: str
    expires: datetime
    api_version: str
    ca_pem: str
    columns: tuple[str, ...]
    blobs: tuple[GrantedBlob, ...]

    @property
    def total_bytes(self) -> int:
        """Return the size of all blobs together in bytes."""
        return sum(blob.size for blob in self.blobs)


def read_grant(path: Path, fingerprint: str, now: datetime | None = None) -> Grant:
    """Read the grant and refuse one that is not for this run.

    :param path: the file that the pipeline put there.
    :param fingerprint: the data fingerprint that the run was submitted for.
    :param now: the time to compare with; the clock's by default.
    :raises GrantError: when it is missing, open to others, damaged, expired, or for other data.
    """
    grant = parse_grant(_read_private(path))
    if grant.fingerprint != fingerprint:
        raise GrantError(
            f"The grant {path.name} is for data {grant.fingerprint[:19]}, but the run was submitted for {fingerprint[:19]}: "
            "the data was verified again in between. Clear the DAG run from verify_blob_data on."
        )
    if grant.expires <= (now or datetime.now(UTC)):
        raise GrantError(
            f"The grant {path.name} expired at {grant.expires.isoformat()}: the run waited too long before it started, or the "
            "VM's clock is wrong. Clear the task that grants data access, or give grants a longer lifetime in the site file."
        )
    return grant


def _read_private(path: Path) -> bytes:
    """Return the file's bytes, if it is an ordinary file of ours that nobody else can read."""
    try:
        file = open_ordinary(path)
    except OSError as error:
        raise GrantError(
            f"The grant {path.name} cannot be read ({error.strerror}): it was revoked, used up by an earlier run, or never put "
            "on this VM. Clear the task that grants data access together with the one that submits."
        ) from error
    with file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.geteuid():
            raise GrantError(
                f"The grant {path.name} belongs to another account than the one that trains; it is not used."
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise GrantError(
                f"The grant {path.name} has mode {stat.S_IMODE(status.st_mode):04o}, so others on the VM may have read it; "
                "expected 0600. It is not used: clear the task that grants data access."
            )
        return file.read(MAX_GRANT_BYTES)


def parse_grant(content: bytes) -> Grant:
    """Make a grant of the file's bytes.

    :raises GrantError: when it is of another version, or a field is missing or wrong.
    """
    try:
        value = json.loads(content)
    except ValueError as error:
        raise GrantError(
            "The grant is not JSON: it was not written completely. Clear the task that grants it."
        ) from error
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise GrantError(
            f"The grant has version {version!r}, this runner understands {VERSION}: pipeline and runner are of different "
            "releases. Clear the DAG run from its first task on."
        )
    grant = Grant(
        fingerprint=_text(value, "fingerprint"),
        expires=_time(_text(value, "expires")),
        api_version=_text(value, "api_version"),
        ca_pem=_text(value, "ca_pem"),
        columns=tuple(_list(value, "columns", str)),
        blobs=tuple(sorted((_blob(item) for item in _list(value, "blobs", dict)), key=lambda blob: blob.name)),
    )
    _check_blobs(grant)
    return grant


def fingerprint_of(blobs: tuple[GrantedBlob, ...]) -> str:
    """Return the data's fingerprint as the pipeline computes it: over names, sizes and contents."""
    rows = [[blob.name, blob.size, blob.content_hash] for blob in blobs]
    text = json.dumps(rows, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _check_blobs(grant: Grant) -> None:
    names = [blob.name for blob in grant.blobs]
    if not names or len(set(names)) != len(names):
        raise GrantError(
            f"The grant names {len(names)} blobs, {len(set(names))} of them different; expected at least one, once."
        )
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    if folders & set(names):
        raise GrantError(
            "The grant names a blob that is also the folder of another one; the VM's disk cannot hold both."
        )
    if fingerprint_of(grant.blobs) != grant.fingerprint:
        raise GrantError("The grant's blobs do not add up to its own fingerprint: it was changed after it was written.")


def _blob(item: dict[str, Any]) -> GrantedBlob:
    size = item.get("size")
    if type(size) is not int or size < 0:
        raise GrantError("A blob's size in the grant is not a number of bytes.")
    texts = {f.name: _text(item, f.name) for f in fields(GrantedBlob) if f.name != "size"}
    blob = GrantedBlob(size=size, **texts)
    parts = blob.name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or not blob.name.isprintable() or "\\" in blob.name:
        raise GrantError(f"The blob name {blob.name!r} cannot be a file's name on the VM.")
    if not _URL.fullmatch(blob.url) or not urlsplit(blob.url).hostname:
        raise GrantError(f"The address of blob {blob.name!r} is not an https URL.")
    if not _CONTENT_HASH.fullmatch(blob.content_hash):
        raise GrantError(f"The hash of blob {blob.name!r} is neither sha256:<hex> nor md5:<hex>.")
    return blob


def _text(value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise GrantError(f"The grant's field {key!r} is missing or not a text.")
    return text


def _list(value: dict[str, Any], key: str, kind: type) -> list[Any]:
    items = value.get(key)
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        raise GrantError(f"The grant's field {key!r} is missing or not a list of the right kind.")
    return items


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise GrantError(f"The grant's expiry {text!r} is not an ISO 8601 time.") from error
    if moment.tzinfo is None:
        raise GrantError(f"The grant's expiry {text!r} has no time zone.")
    return moment
