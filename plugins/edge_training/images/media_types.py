"""The media types of images, and the descriptor by which a manifest names a blob."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from edge_training.exceptions import ImageError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

# What a layer of a base image may be, and by which name it stands in our manifests: the bytes are the same.
LAYERS = {
    OCI_LAYER: OCI_LAYER,
    OCI_LAYER_GZIP: OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD: OCI_LAYER_ZSTD,
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
}

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Descriptor:
    """What a manifest says about a blob.

    :param media_type: the blob's media type.
    :param digest: ``sha256:<hex>`` over its bytes.
    :param size: bytes.
    """

    media_type: str
    digest: str
    size: int

    @classmethod
    def from_json(cls, value: object, *, of: str) -> Descriptor:
        """Read a descriptor of a manifest or an index.

        :param value: the object.
        :param of: the image it belongs to, for the error.
        :raises ImageError: when it is not a descriptor with a SHA-256 digest.
        """
        if isinstance(value, dict):
            media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
            if isinstance(media_type, str) and isinstance(digest, str) and isinstance(size, int) and size >= 0:
                if DIGEST.fullmatch(digest):
                    return cls(media_type, digest, size)
                raise ImageError(f"Image {of} names a blob by '{digest}': only sha256 digests are understood.")
        raise ImageError(f"The manifest of image {of} is damaged: a descriptor lacks mediaType, digest or size.")

    @classmethod
    def of_bytes(cls, media_type: str, data: bytes) -> Descriptor:
        """Describe a blob that is at hand.

        :param media_type: its media type.
        :param data: its bytes.
        """
        return cls(media_type, digest_of(data), len(data))

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as it stands in a manifest."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def digest_of(data: bytes) -> str:
    """Return ``sha256:<hex>`` over bytes.

    :param data: the bytes.
    """
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical_json(value: object) -> bytes:
    """Return the one way in which we write a JSON blob: sorted keys, no spaces, UTF-8.

    :param value: anything that ``json.dumps`` accepts.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
