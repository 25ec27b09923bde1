"""A registry, by the distribution protocol: manifests and blobs (github.com/opencontainers/distribution-spec)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

import requests

from edge_training.exceptions import ImageError, ServiceError
from edge_training.images import errors
from edge_training.images.auth import Login
from edge_training.images.layers import CHUNK, HashingReader
from edge_training.images.media_types import INDEXES, MANIFESTS, Descriptor, digest_of
from edge_training.images.transport import Patience, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

_OK = frozenset({requests.codes.ok})
_FOUND_OR_NOT = frozenset({requests.codes.ok, requests.codes.not_found})
_CREATED = frozenset({requests.codes.created})
_CREATED_OR_ACCEPTED = frozenset({requests.codes.created, requests.codes.accepted})
# A manifest is a page of JSON; the specification lets registries refuse more than this.
_LARGEST_MANIFEST = 4 << 20


@dataclass(frozen=True)
class Manifest:
    """A manifest or index as the registry holds it.

    :param digest: ``sha256:<hex>`` over its bytes, computed here.
    :param media_type: its media type.
    :param body: its bytes.
    """

    digest: str
    media_type: str
    body: bytes


class RegistryClient:
    """Speaks with one registry. Use it in a ``with`` statement, or close it.

    :param registry: ``host`` or ``host:port``, over https.
    :param user: user name; ``""`` for none.
    :param password: its password.
    :param ca_certificate: PEM file of a private CA, or ``None`` for the public ones.
    :param origin: where the login comes from, for errors.
    :param patience: time limits and tries.
    :raises ConfigurationError: when the PEM file does not exist.
    """

    def __init__(
        self,
        registry: str,
        *,
        user: str = "",
        password: str = "",
        ca_certificate: Path | None = None,
        origin: str = "the caller's settings",
        patience: Patience | None = None,
    ) -> None:
        self.registry = registry
        self._transport = Transport(
            registry, Login(registry, user, password, origin), ca_certificate, patience or Patience()
        )

    def find_manifest(self, repository: str, wanted: str) -> Manifest | None:
        """Return a manifest or index, or ``None`` when there is none.

        :param repository: the repository.
        :param wanted: a tag, or a digest, which the answer is then checked against.
        :raises ImageError: when the bytes are not those of the digest.
        :raises ServiceError: when the registry does not answer as it should.
        """
        name = _named(repository, wanted)
        with self._transport.send(
            "GET",
            f"/v2/{repository}/manifests/{wanted}",
            doing=f"asking for image {name}",
            expect=_FOUND_OR_NOT,
            scope=_pull(repository),
            headers={"Accept": ", ".join(sorted(MANIFESTS | INDEXES))},
            stream=True,
        ) as response:
            if response.status_code == requests.codes.not_found:
                return None
            body = _read_at_most(response, _LARGEST_MANIFEST, name)
        digest = digest_of(body)
        expected = wanted if ":" in wanted else response.headers.get("Docker-Content-Digest", digest)
        if digest != expected:
            raise ImageError(
                f"Registry {self.registry} gave image {name} as {digest}, expected {expected}: it is damaged."
            )
        return Manifest(digest, response.headers.get("Content-Type", "").partition(";")[0].strip(), body)

    def find_digest(self, repository: str, wanted: str) -> str:
        """Return the digest that a tag points at, or ``""`` when there is no such tag.

        :param repository: the repository.
        :param wanted: the tag.
        :raises ServiceError: when the registry does not answer as it should.
        """
        response = self._transport.send(
            "HEAD",
            f"/v2/{repository}/manifests/{wanted}",
            doing=f"asking for image {_named(repository, wanted)}",
            expect=_FOUND_OR_NOT,
            scope=_pull(repository),
            headers={"Accept": ", ".join(sorted(MANIFESTS | INDEXES))},
        )
        return response.headers.get("Docker-Content-Digest", "") if response.ok else ""

    def put_manifest(self, repository: str, wanted: str, body: bytes, media_type: str) -> None:
        """Store a manifest; all blobs that it names must be there.

        :param repository: the repository.
        :param wanted: its digest, or a tag.
        :param body: its bytes.
        :param media_type: its media type.
        :raises ImageError: when the registry stored something else.
        :raises ServiceError: when the registry refuses it.
        """
        name, expected = _named(repository, wanted), digest_of(body)
        response = self._transport.send(
            "PUT",
            f"/v2/{repository}/manifests/{wanted}",
            doing=f"storing image {name}",
            expect=_CREATED,
            scope=_push(repository),
            headers={"Content-Type": media_type},
            body=lambda: body,
        )
        stored = response.headers.get("Docker-Content-Digest", expected)
        if stored != expected:
            raise ImageError(
                f"Registry {self.registry} stored image {name} as {stored}, but {expected} was sent: "
                "something between here and there changes content."
            )

    def has_blob(self, repository: str, digest: str) -> bool:
        """Tell whether a repository holds a blob.

        :param repository: the repository.
        :param digest: the blob's digest.
        :raises ServiceError: when the registry does not answer as it should.
        """
        response = self._transport.send(
            "HEAD",
            f"/v2/{repository}/blobs/{digest}",
            doing=f"looking for blob {digest} in {repository}",
            expect=_FOUND_OR_NOT,
            scope=_push(repository),
        )
        return response.ok

    def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Let a repository use a blob of another one; tell whether the registry did so.

        :param repository: the repository that is to have it.
        :param digest: the blob's digest.
        :param source: the repository that has it.
        :raises ServiceError: when the registry does not answer as it should.
        """
        query = urlencode({"mount": digest, "from": source})
        response = self._transport.send(
            "POST",
            f"/v2/{repository}/blobs/uploads/?{query}",
            doing=f"mounting blob {digest} from {source} in {repository}",
            expect=_CREATED_OR_ACCEPTED,
            scope=f"{_push(repository)} {_pull(source)}",
        )
        if response.status_code == requests.codes.created:
            return True
        self._abandon(repository, response.headers.get("Location", ""))
        return False

    def _abandon(self, repository: str, location: str) -> None:
        """Give up an upload that the registry offered instead of a mount; it forgets it by itself if this fails."""
        if location:
            anything = frozenset(range(200, 600))
            self._transport.send(
                "DELETE", location, doing="giving up an upload", expect=anything, scope=_push(repository), tries=1
            )

    def put_blob(self, repository: str, descriptor: Descriptor, open_blob: Callable[[], BinaryIO]) -> None:
        """Send a blob, from its beginning on each try, with little memory.

        :param repository: the repository.
        :param descriptor: the blob.
        :param open_blob: returns its bytes as a stream; called anew for each try.
        :raises ImageError: when the bytes are not those of the descriptor.
        :raises ServiceError: when the registry does not take it.
        """
        for attempt in self._transport.patience.attempts():
            location = self._begin_upload(repository, descriptor)
            try:
                return self._upload(repository, location, descriptor, open_blob)
            except ServiceError as error:
                # An upload that broke off cannot be sent to the same address again: it begins anew.
                if not error.retryable or attempt.last:
                    raise
            attempt.wait()
        return None

    def _begin_upload(self, repository: str, descriptor: Descriptor) -> str:
        begun = self._transport.send(
            "POST",
            f"/v2/{repository}/blobs/uploads/",
            doing=f"beginning to send blob {descriptor.digest} to {repository}",
            expect=frozenset({requests.codes.accepted}),
            scope=_push(repository),
        )
        location = begun.headers.get("Location", "")
        return location + ("&" if "?" in location else "?") + urlencode({"digest": descriptor.digest})

    def _upload(
        self, repository: str, location: str, descriptor: Descriptor, open_blob: Callable[[], BinaryIO]
    ) -> None:
        with HashingReader(open_blob(), descriptor.size) as reader:
            try:
                self._transport.send(
                    "PUT",
                    location,
                    doing=f"sending blob {descriptor.digest} ({descriptor.size} bytes) to {repository}",
                    expect=_CREATED,
                    scope=_push(repository),
                    headers={"Content-Type": "application/octet-stream"},
                    body=lambda: reader,
                    tries=1,
                )
            except ServiceError as error:
                if error.code == "DIGEST_INVALID":
                    raise _damaged(descriptor, reader.digest) from error
                raise
            if reader.digest != descriptor.digest:
                raise _damaged(descriptor, reader.digest)

    def fetch_blob(self, repository: str, descriptor: Descriptor, target: Path) -> None:
        """Fetch a blob into a file, which appears only when it is complete and what the descriptor says.

        :param repository: the repository.
        :param descriptor: the blob.
        :param target: the file; its folder must exist.
        :raises ImageError: when it is missing, or its bytes are not those of the descriptor.
        :raises ServiceError: when the registry does not answer, or breaks off again and again.
        """
        partial = target.with_name(target.name + ".partial")
        for attempt in self._transport.patience.attempts():
            try:
                self._fetch_once(repository, descriptor, partial)
            except ServiceError as error:
                if not error.retryable or attempt.last:
                    raise
            else:
                partial.replace(target)
                return
            finally:
                partial.unlink(missing_ok=True)
            attempt.wait()

    def _fetch_once(self, repository: str, descriptor: Descriptor, target: Path) -> None:
        with target.open("wb") as file:
            for chunk in self.read_blob(repository, descriptor):
                file.write(chunk)

    def read_blob(self, repository: str, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob piece by piece; the last piece only comes when all of it was what the descriptor says.

        :param repository: the repository.
        :param descriptor: the blob.
        :raises ImageError: when it is missing, or its bytes are not those of the descriptor.
        :raises ServiceError: when the registry does not answer, or breaks off.
        """
        doing = f"fetching blob {descriptor.digest} from {repository}"
        response = self._transport.send(
            "GET",
            f"/v2/{repository}/blobs/{descriptor.digest}",
            doing=doing,
            expect=_FOUND_OR_NOT,
            scope=_pull(repository),
            stream=True,
        )
        with response:
            if response.status_code == requests.codes.not_found:
                raise ImageError(
                    f"Registry {self.registry} has no blob {descriptor.digest} in {repository}, although an image there names it: "
                    "push the image anew."
                )
            try:
                yield from _verified(response, descriptor, self.registry)
            except requests.RequestException as error:
                raise errors.from_exception(self.registry, error, doing, None) from error

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _verified(response: requests.Response, descriptor: Descriptor, registry: str) -> Iterator[bytes]:
    seen, size, held = hashlib.sha256(), 0, b""
    for chunk in response.iter_content(CHUNK):
        size += len(chunk)
        if size > descriptor.size:
            break
        seen.update(chunk)
        if held:
            yield held
        held = chunk
    if size != descriptor.size or "sha256:" + seen.hexdigest() != descriptor.digest:
        raise ImageError(
            f"Blob {descriptor.digest} came damaged from registry {registry}: "
            f"{size} bytes with another digest, expected {descriptor.size} bytes. Push the image anew."
        )
    yield held


def _read_at_most(response: requests.Response, limit: int, name: str) -> bytes:
    body = b""
    for chunk in response.iter_content(CHUNK):
        body += chunk
        if len(body) > limit:
            raise ImageError(f"The manifest of image {name} is larger than {limit} bytes: it is not an image.")
    return body


def _damaged(descriptor: Descriptor, found: str) -> ImageError:
    return ImageError(
        f"A layer that should have digest {descriptor.digest} has {found}: the file was changed after it was made. "
        "Remove it from the cache of layers and try again."
    )


def _named(repository: str, wanted: str) -> str:
    return f"{repository}{'@' if ':' in wanted else ':'}{wanted}"


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"


def _push(repository: str) -> str:
    return f"repository:{repository}:pull,push"
