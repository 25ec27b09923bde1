"""Blobs on disk: one file each, under a key that says nothing, reached with a signed URL."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import shutil
import time
import uuid
from typing import TYPE_CHECKING

from local_site.azure_ml.errors import BadRequestError, ConflictError, ForbiddenError, NotFoundError
from local_site.azure_ml.files import settle, write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from local_site.azure_ml.settings import Settings

KEY = re.compile(r"[0-9a-f]{32}")
URL = re.compile(r"/blobs/([0-9a-f]{32})(?:\?|$)")
READ_SECONDS = 24 * 3600
WRITE_SECONDS = 2 * 3600
CHUNK = 1024 * 1024


class Blobs:
    """The files behind snapshots and artifacts.

    :param settings: the state folder, the signing key and the address that URLs begin with.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.folder = settings.state / "blobs"
        self.drafts = settings.state / "blob-drafts"
        for folder in (self.folder, self.drafts):
            folder.mkdir(exist_ok=True, mode=0o700)
        for draft in self.drafts.iterdir():  # an upload that a crash cut off; the blocks of one are folders, and stay
            if draft.is_file():
                draft.unlink()

    def keep_only(self, keys: set[str]) -> None:
        """Remove every other blob, and what was sent of blobs that are not committed."""
        shutil.rmtree(self.drafts)
        self.drafts.mkdir(mode=0o700)
        for path in self.folder.glob("*/*"):
            if path.name not in keys:
                path.unlink()

    def new_key(self) -> str:
        """Return a key that no blob has."""
        return uuid.uuid4().hex

    def path(self, key: str) -> Path:
        """Return where a blob lies, whether it exists or not.

        :raises BadRequestError: when the key is not one of ours.
        """
        if not KEY.fullmatch(key):
            raise BadRequestError(f"{key!r} is not a blob's key.", code="InvalidResourceName")
        return self.folder / key[:2] / key

    def exists(self, key: str) -> bool:
        """Tell whether the blob has content."""
        return self.path(key).is_file()

    def size(self, key: str) -> int:
        """Return the blob's size in bytes.

        :raises NotFoundError: when it has no content yet.
        """
        try:
            return self.path(key).stat().st_size
        except FileNotFoundError as error:
            raise NotFoundError("The specified blob does not exist.", code="BlobNotFound") from error

    def write(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store a whole blob; it is there completely or not at all.

        :return: its size in bytes.
        """
        return write_file(self.path(key), chunks, drafts=self.drafts)

    def put(self, key: str, draft: Path, *, only_new: bool = False) -> None:
        """Make a synced draft the blob.

        :param only_new: whether the blob must not exist yet.
        :raises ConflictError: when it does.
        """
        path = self.path(key)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        try:
            settle(draft, path, only_new=only_new)
        except FileExistsError as error:
            raise ConflictError("The specified blob already exists.", code="BlobAlreadyExists") from error

    def append(self, key: str, data: bytes) -> None:
        """Add to a blob that grows, such as a log."""
        path = self.path(key)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        with path.open("ab") as stream:
            stream.write(data)

    def sync(self, key: str) -> None:
        """Make what was appended durable."""
        with self.path(key).open("rb") as stream:
            os.fsync(stream.fileno())

    def read_url(self, key: str) -> str:
        """Return a URL with which anybody may read the blob for a day."""
        return self._url(key, "r", READ_SECONDS)

    def write_url(self, key: str) -> str:
        """Return a URL with which anybody may read and write the blob for two hours."""
        return self._url(key, "rw", WRITE_SECONDS)

    def key_of(self, url: str) -> str:
        """Return the key in a URL that this server made.

        :raises BadRequestError: when it is somebody else's URL.
        """
        match = URL.search(url)
        if not match:
            raise BadRequestError("The blob URL was not made by this server.")
        return match.group(1)

    def check(self, key: str, query: Mapping[str, str], needed: str) -> None:
        """Check a URL's signature.

        :param needed: ``"r"`` or ``"w"``.
        :raises ForbiddenError: when it is expired, changed, or does not allow it.
        """
        allowed, expires = query.get("sp", ""), query.get("se", "")
        signature = self._sign(key, allowed, expires)
        good = hmac.compare_digest(signature, query.get("sig", "")) and expires.isdigit()
        if not good or int(expires) < time.time() or needed not in allowed:
            raise ForbiddenError(
                "Server failed to authenticate the request: the signed URL is expired, changed, or does not allow this.",
                code="AuthenticationFailed",
            )

    def _url(self, key: str, allowed: str, seconds: int) -> str:
        """Sign a URL.

        The SDK takes the host apart at its first two dots and puts it together again as ``https://{0}.blob.{2}``.
        Written as user information before ``@``, that survives and still reaches localhost without any DNS.
        """
        expires = str(int(time.time()) + seconds)
        query = f"sp={allowed}&se={expires}&sig={self._sign(key, allowed, expires)}"
        return f"https://local.blob.azureml@localhost:{self._settings.port}/blobs/{key}?{query}"

    def _sign(self, key: str, allowed: str, expires: str) -> str:
        message = f"{key}\n{allowed}\n{expires}".encode()
        return hmac.new(bytes.fromhex(self._settings.signing_key), message, hashlib.sha256).hexdigest()
