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
from edge_training.images.layers import CHUNK
from edge_training.images.media_types import INDEXES, MANIFESTS, Descriptor, digest_of
from edge_training.images.transport import Patience, Transport
from edge_training.images.upload import CHUNK_BYTES, BlobUpload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from edge_training.images.entra import ServicePrincipal

_OK = frozenset({requests.codes.ok})
_FOUND_OR_NOT = frozenset({requests.codes.ok, requests.codes.not_found})
_CREATED = frozenset({requests.codes.created})
_CREATED_OR_ACCEPTED = frozenset({requests.codes.created, requests.codes.accepted})
_DELETED_OR_NOT = frozenset({requests.codes.accepted, requests.codes.not_found, requests.codes.method_not_allowed})
_PAGE = 100
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
    :param principal: a service principal of Entra ID that logs in instead of user name and password, to an Azure registry.
    :param chunk_bytes: the largest body of one request; larger blobs are sent in several.
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
        principal: ServicePrincipal | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.registry = registry
        self._chunk_bytes = chunk_bytes
        login = Login(registry, user, password, origin, principal)
        self._transport = Transport(registry, login, ca_certificate, patience or Patience())

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

    def find_referrers(self, repository: str, digest: str) -> bytes | None:
        """Return the registry's own list of what is attached to an image, or ``None`` when it keeps no such lists.

        :param repository: the repository.
        :param digest: the image's digest.
        :raises ServiceError: when the registry does not answer as it should.
        """
        response = self._transport.send(
            "GET",
            f"/v2/{repository}/referrers/{digest}",
            doing=f"listing what is attached to {_named(repository, digest)}",
            expect=_FOUND_OR_NOT,
            scope=_pull(repository),
        )
        return response.content if response.ok else None

    def put_manifest(self, repository: str, wanted: str, body: bytes, media_type: str) -> str:
        """Store a manifest; all blobs that it names must be there.

        :param repository: the repository.
        :param wanted: its digest, or a tag.
        :param body: its bytes.
        :param media_type: its media type.
        :returns: the digest of its ``subject`` when the registry lists it there, else ``""``.
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
        return str(response.headers.get("OCI-Subject", ""))

    def list_tags(self, repository: str) -> list[str]:
        """Return the tags of a repository, in the registry's order; none when there is no such repository.

        :param repository: the repository.
        :raises ServiceError: when the registry does not answer as it should.
        """
        tags: list[str] = []
        page: str | None = f"/v2/{repository}/tags/list?n={_PAGE}"
        while page:
            doing, scope = f"listing the tags of {repository}", _pull(repository)
            response = self._transport.send("GET", page, doing=doing, expect=_FOUND_OR_NOT, scope=scope)
            if response.status_code == requests.codes.not_found:
                break
            tags += response.json().get("tags") or []
            page = response.links.get("next", {}).get("url")
        return tags

    def delete_manifest(self, repository: str, digest: str) -> bool:
        """Delete an image by its digest, with all tags that point at it; tell whether it was there.

        :param repository: the repository.
        :param digest: the digest of its manifest.
        :raises ImageError: when the registry does not allow it.
        :raises ServiceError: when the registry does not answer as it should.
        """
        response = self._transport.send(
            "DELETE",
            f"/v2/{repository}/manifests/{digest}",
            doing=f"deleting image {_named(repository, digest)}",
            expect=_DELETED_OR_NOT,
            scope=f"repository:{repository}:delete,pull",
        )
        if response.status_code == requests.codes.method_not_allowed:
            raise ImageError(
                f"Registry {self.registry} does not allow {_named(repository, digest)} to be deleted: it keeps every image, or this one "
                "is locked. Permit deletion there, or unlock it."
            )
        return response.ok

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
        # The upload that is offered instead of a mount is empty and ends by itself.
        return bool(response.status_code == requests.codes.created)

    def put_blob(self, repository: str, descriptor: Descriptor, open_blob: Callable[[], BinaryIO]) -> None:
        """Send a blob with little memory; one that breaks off goes on from where it broke off.

        :param repository: the repository.
        :param descriptor: the blob.
        :param open_blob: returns its bytes as a stream that can be positioned; called for each request.
        :raises ImageError: when the bytes are not those of the descriptor, or the registry stored something else.
        :raises ServiceError: when the registry does not take it.
        """
        BlobUpload(self._transport, repository, _push(repository), descriptor, open_blob, self._chunk_bytes).send()

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


def _named(repository: str, wanted: str) -> str:
    return f"{repository}{'@' if ':' in wanted else ':'}{wanted}"


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"


def _push(repository: str) -> str:
    return f"repository:{repository}:pull,push"
