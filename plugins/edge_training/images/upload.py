"""Sends one blob: in one piece when it is small, in chunks when not, and from where it broke off.

The steps are those of the distribution protocol (github.com/opencontainers/distribution-spec, "Pushing blobs"): POST begins an
upload, PATCH adds a chunk, PUT ends it with the digest, and GET tells how much has arrived.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlencode

import requests

from edge_training.exceptions import ImageError, ServiceError
from edge_training.images.layers import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_training.images.media_types import Descriptor
    from edge_training.images.transport import Transport

# What is lost when a connection breaks, at most; and below what front ends of registries accept in one request.
CHUNK_BYTES = 16 << 20
_OCTETS = "application/octet-stream"
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")
# The registry no longer knows the upload, or no longer agrees with us how far it is.
_LOST = frozenset({requests.codes.not_found, requests.codes.requested_range_not_satisfiable})


class Section:
    """A part of a file as the body of one request.

    :param stream: the file; it is closed with the section.
    :param start: where the part begins, in bytes.
    :param size: its bytes; ``requests`` takes the request's length from ``len``.
    """

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        stream.seek(start)
        self._stream, self._left, self.len = stream, size, size

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        :param size: how many at most.
        :raises ImageError: when the file ends early; otherwise the registry would wait for the rest.
        """
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._stream.read(wanted)
        if wanted and not data:
            raise ImageError("A layer became shorter while it was sent: nothing may write to it meanwhile. Try again.")
        self._left -= len(data)
        return data


class BlobUpload:
    """The upload of one blob to one repository.

    :param transport: the registry.
    :param repository: the repository.
    :param scope: what a token must permit.
    :param descriptor: the blob.
    :param open_blob: returns its bytes as a stream that can be positioned; called for each request.
    :param chunk_bytes: the largest body of one request.
    """

    def __init__(
        self,
        transport: Transport,
        repository: str,
        scope: str,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._transport, self._repository, self._scope = transport, repository, scope
        self._descriptor, self._open, self._chunk_bytes = descriptor, open_blob, chunk_bytes
        self._location = ""
        self._offset = 0
        # The furthest that any try has got.
        self._progress = 0

    def send(self) -> None:
        """Send the blob; progress renews the patience.

        :raises ImageError: when the bytes are not those of the descriptor, or the registry stored something else.
        :raises ServiceError: when the registry does not take it.
        """
        attempts, reached = self._transport.patience.attempts(), 0
        while True:
            attempt = next(attempts)
            try:
                if self._find_out_how_far_it_is():
                    return
                self._send_the_rest()
            except ServiceError as error:
                self._judge(error)
                if self._progress > reached:
                    attempts, reached = self._transport.patience.attempts(), self._progress
                elif attempt.last:
                    raise
                attempt.wait()
            else:
                return

    def _judge(self, error: ServiceError) -> None:
        """Raise what no further try can help with."""
        if error.code == "DIGEST_INVALID":
            found = self._digest()
            if found != self._descriptor.digest:
                raise damaged(self._descriptor, found) from error
            # What arrived is not what was sent.
            self._location = ""
        elif error.status in _LOST or error.code == "BLOB_UPLOAD_INVALID":
            self._location = ""
        elif not error.retryable:
            raise error

    def _find_out_how_far_it_is(self) -> bool:
        """Begin the upload or learn how much of it has arrived; tell whether the blob is there already."""
        if not self._location:
            self._begin()
            return False
        answer = self._request("GET", self._location, frozenset({204, *_LOST}), "asking how much has arrived of")
        if answer.status_code in _LOST:
            # Perhaps only the answer to the last request was lost.
            if self._is_there():
                return True
            self._begin()
            return False
        arrived = _RANGE.fullmatch(answer.headers.get("Range", ""))
        # "0-0" stands for one byte and for none.
        offset = int(arrived[1]) + 1 if arrived and arrived[1] != "0" else 0
        if not 0 < offset <= self._descriptor.size:
            self._begin()
            return False
        self._offset = offset
        self._progress = max(self._progress, offset)
        self._location = answer.headers.get("Location", self._location)
        return False

    def _begin(self) -> None:
        self._location, self._offset = "", 0
        path = f"/v2/{self._repository}/blobs/uploads/"
        answer = self._request("POST", path, frozenset({202}), "beginning to send", tries=None)
        self._location = answer.headers.get("Location", "")

    def _is_there(self) -> bool:
        path = f"/v2/{self._repository}/blobs/{self._descriptor.digest}"
        return self._request("HEAD", path, frozenset({200, 404}), "looking for").ok

    def _send_the_rest(self) -> None:
        while self._descriptor.size - self._offset > self._chunk_bytes:
            self._send_chunk()
        query = urlencode({"digest": self._descriptor.digest})
        location = f"{self._location}{'&' if '?' in self._location else '?'}{query}"
        size = self._descriptor.size - self._offset
        answer = self._request("PUT", location, frozenset({201}), "sending", {"Content-Type": _OCTETS}, size)
        stored = answer.headers.get("Docker-Content-Digest", self._descriptor.digest)
        if stored != self._descriptor.digest:
            raise ImageError(
                f"Registry {self._transport.registry} stored blob {self._descriptor.digest} as {stored}: "
                "something between here and there changes content."
            )

    def _send_chunk(self) -> None:
        size = self._chunk_bytes
        headers = {"Content-Type": _OCTETS, "Content-Range": f"{self._offset}-{self._offset + size - 1}"}
        answer = self._request("PATCH", self._location, frozenset({202}), "sending a part of", headers, size)
        self._location = answer.headers.get("Location", self._location)
        self._offset += size
        self._progress = max(self._progress, self._offset)

    def _request(
        self,
        method: str,
        location: str,
        expect: frozenset[int],
        doing: str,
        headers: dict[str, str] | None = None,
        size: int = 0,
        tries: int | None = 1,
    ) -> requests.Response:
        """Send one request, with the next ``size`` bytes of the blob as its body."""
        what = f"{doing} blob {self._descriptor.digest} ({self._descriptor.size} bytes) to {self._repository}"
        with self._open() as stream:
            return self._transport.send(
                method,
                location,
                doing=what,
                expect=expect,
                scope=self._scope,
                headers=headers,
                body=(lambda: Section(stream, self._offset, size)) if size else None,
                tries=tries,
            )

    def _digest(self) -> str:
        # Not hashlib.file_digest, which wants a file of the system.
        digest = hashlib.sha256()
        with self._open() as stream:
            while data := stream.read(CHUNK):
                digest.update(data)
        return "sha256:" + digest.hexdigest()


def digest_of_file(file: Path) -> str:
    """Return ``sha256:<hex>`` over a file, with little memory.

    :param file: the file.
    """
    with file.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def damaged(descriptor: Descriptor, found: str) -> ImageError:
    """Return the error for a layer that is not what it was when it was made.

    :param descriptor: what it should be.
    :param found: the digest of what it is.
    """
    return ImageError(
        f"A layer that should have digest {descriptor.digest} has {found}: the file was changed after it was made. "
        "Remove it from the cache of layers and try again."
    )
