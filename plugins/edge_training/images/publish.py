"""Publishes images to a registry: only what is missing is sent, and the tag comes last."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edge_training.images.interfaces import Published, Transfer, Way
from edge_training.images.layers import opener
from edge_training.images.media_types import OCI_MANIFEST, Descriptor
from edge_training.images.references import check_repository, check_tag
from edge_training.records import ImageReference

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_training.images.compose import ComposedImage
    from edge_training.images.registry import RegistryClient


class RegistryPublisher:
    """Publishes to one repository; a :class:`~edge_training.images.interfaces.Publisher`.

    :param client: the registry, which also holds the images' bases.
    :param repository: the repository.
    :raises ConfigurationError: when the registry would refuse the repository's name.
    """

    def __init__(self, client: RegistryClient, repository: str) -> None:
        self._client = client
        self._repository = check_repository(repository)

    def publish(self, image: ComposedImage, tag: str) -> Published:
        """Publish an image; the tag points at it only when all of it is there.

        :param image: the image.
        :param tag: its tag, for people.
        :raises ConfigurationError: when the tag is not one.
        :raises ImageError: when a layer was changed after it was made, or the registry stored something else.
        :raises ServiceError: when the registry does not answer as it should.
        """
        check_tag(tag)
        transfers = [self._bring(image.base.repository, descriptor) for descriptor in image.base.layers]
        transfers += [self._send(layer.descriptor, opener(layer.file)) for layer in image.layers]
        transfers.append(self._send(image.config_descriptor, lambda: io.BytesIO(image.config)))
        before = self._client.find_digest(self._repository, tag)
        if before != image.digest:
            self._client.put_manifest(self._repository, image.digest, image.manifest, OCI_MANIFEST)
            self._client.put_manifest(self._repository, tag, image.manifest, OCI_MANIFEST)
        reference = ImageReference(self._client.registry, self._repository, image.digest, tag, image.size)
        return Published(reference, tuple(transfers), before if before != image.digest else "")

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
