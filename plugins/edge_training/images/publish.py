"""Publishes images to a registry: only what is missing is sent, and the tag comes last."""

from __future__ import annotations

import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edge_training.exceptions import ImageError, ServiceError
from edge_training.images.interfaces import Published, Transfer, Way
from edge_training.images.layers import opener
from edge_training.images.media_types import OCI_EMPTY, OCI_MANIFEST, Descriptor
from edge_training.images.references import check_repository, check_tag
from edge_training.images.referrers import EMPTY, Attachment, attach
from edge_training.images.transport import CONNECTIONS
from edge_training.records import ImageReference

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_training.images.compose import ComposedImage
    from edge_training.images.registry import RegistryClient


# How registries refuse to move a tag: there is no agreement on it.
_KEPT = frozenset({400, 403, 405, 409, 412})


class RegistryPublisher:
    """Publishes to one repository; a :class:`~edge_training.images.interfaces.Publisher`.

    :param client: the registry, which also holds the images' bases.
    :param repository: the repository.
    :raises ConfigurationError: when the registry would refuse the repository's name.
    """

    def __init__(self, client: RegistryClient, repository: str) -> None:
        self._client = client
        self._repository = check_repository(repository)

    def publish(self, image: ComposedImage, tag: str, attachments: tuple[Attachment, ...] = ()) -> Published:
        """Publish an image; the tag points at it only when all of it is there.

        :param image: the image.
        :param tag: its tag, for people.
        :param attachments: documents that are attached to it.
        :raises ConfigurationError: when the tag is not one.
        :raises ImageError: when a layer was changed after it was made, the registry stored something else, or the tag is kept
            at another image.
        :raises ServiceError: when the registry does not answer as it should.
        """
        check_tag(tag)
        transfers = _side_by_side(
            [
                *(partial(self._bring, image.base.repository, descriptor) for descriptor in image.base.layers),
                *(partial(self._send, layer.descriptor, opener(layer.file)) for layer in image.layers),
                partial(self._send, image.config_descriptor, lambda: io.BytesIO(image.config)),
            ]
        )
        before = self._client.find_digest(self._repository, tag)
        if before != image.digest:
            self._client.put_manifest(self._repository, image.digest, image.manifest, OCI_MANIFEST)
        self.attach(image.descriptor, attachments)
        if before != image.digest:
            self._tag(image, tag, before)
        reference = ImageReference(self._client.registry, self._repository, image.digest, tag, image.size)
        return Published(reference, transfers, before if before != image.digest else "")

    def attach(self, subject: Descriptor, attachments: tuple[Attachment, ...]) -> None:
        """Attach documents to an image of the repository, as far as they are not.

        :param subject: the image's manifest.
        :param attachments: the documents.
        :raises ImageError: when the registry stored something else.
        :raises ServiceError: when the registry does not answer as it should.
        """
        if attachments:
            self._send(Descriptor.of_bytes(OCI_EMPTY, EMPTY), lambda: io.BytesIO(EMPTY))
        for attachment in attachments:
            self._send(attachment.descriptor, partial(io.BytesIO, attachment.data))
        attach(self._client, self._repository, subject, attachments)

    def _tag(self, image: ComposedImage, tag: str, before: str) -> None:
        """Let the tag point at the image, which is there."""
        try:
            self._client.put_manifest(self._repository, tag, image.manifest, OCI_MANIFEST)
        except ServiceError as error:
            if before and error.status in _KEPT and not error.retryable:
                raise ImageError(
                    f"Tag '{tag}' of {self._client.registry}/{self._repository} is kept at {before} (HTTP {error.status}). "
                    f"The new image is there by its digest, {image.digest}. Unlock the tag, or choose another one."
                ) from error
            raise

    def _send(self, descriptor: Descriptor, open_blob: Callable[[], BinaryIO]) -> Transfer:
        """Send a blob of ours unless it is there."""
        start = time.monotonic()
        way: Way = "present"
        if not self._client.has_blob(self._repository, descriptor.digest):
            self._client.put_blob(self._repository, descriptor, open_blob)
            way = "sent"
        return Transfer(descriptor, way, time.monotonic() - start)

    def _bring(self, source: str, descriptor: Descriptor) -> Transfer:
        """Bring a blob of the base over unless it is there."""
        start = time.monotonic()
        way: Way = "present"
        if not self._client.has_blob(self._repository, descriptor.digest):
            if self._client.mount_blob(self._repository, descriptor.digest, source):
                way = "mounted"
            else:
                self._copy(source, descriptor)
                way = "copied"
        return Transfer(descriptor, way, time.monotonic() - start)

    def _copy(self, source: str, descriptor: Descriptor) -> None:
        """Fetch a blob and send it, for registries that do not mount."""
        with tempfile.TemporaryDirectory(prefix="layer-") as folder:
            file = Path(folder) / "layer"
            self._client.fetch_blob(source, descriptor, file)
            self._client.put_blob(self._repository, descriptor, opener(file))


def _side_by_side(moves: list[Callable[[], Transfer]]) -> tuple[Transfer, ...]:
    """Bring all blobs over; the first one's failure is raised when none is under way any more, and no further one is begun."""
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="blob") as pool:
        under_way = [pool.submit(move) for move in moves]
        try:
            return tuple(one.result() for one in under_way)
        finally:
            for one in under_way:
                one.cancel()
