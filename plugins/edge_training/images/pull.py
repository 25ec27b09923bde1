"""Pulls an image by digest and unpacks it: what arrives is what the digest says, or an error."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ImageError
from edge_training.images.compose import load_json
from edge_training.images.media_types import LAYERS, MANIFESTS, Descriptor
from edge_training.images.unpack import RootFolder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edge_training.images.registry import RegistryClient

# Images may lack them, and where they run the root is read-only.
_MOUNT_POINTS = ("dev", "proc", "tmp")


@dataclass(frozen=True)
class PulledImage:
    """An image that is unpacked on this machine.

    :param reference: ``registry/repository@sha256:...``.
    :param root: the folder with its files.
    :param run: what its configuration says about running it (``Env``, ``Entrypoint``, ``User``, ...).
    :param size: bytes of its layers as they are stored.
    :param seconds: how long pulling and unpacking took.
    """

    reference: str
    root: Path
    run: Mapping[str, Any]
    size: int
    seconds: float


def pull(client: RegistryClient, repository: str, digest: str, folder: Path) -> PulledImage:
    """Pull an image.

    :param client: the registry.
    :param repository: the repository.
    :param digest: the digest of the image's manifest.
    :param folder: an empty or absent folder that receives it, as ``root``.
    :raises ImageError: when it is not there, damaged, or of a type that is not understood.
    :raises ServiceError: when the registry does not answer or refuses the login.
    """
    start = time.monotonic()
    image = describe(client, repository, digest)
    config = load_json(image.config, f"The configuration of image {image.reference}")
    root = RootFolder(folder / "root")
    for layer in image.layers:
        # One at a time, so that never more than one compressed layer takes up space.
        file = folder / layer.digest.replace(":", "-")
        client.fetch_blob(repository, layer, file)
        try:
            root.apply(file)
        finally:
            file.unlink()
    for name in _MOUNT_POINTS:
        (root.path / name).mkdir(exist_ok=True)
    size = sum(layer.size for layer in image.layers)
    return PulledImage(image.reference, root.path, config.get("config") or {}, size, time.monotonic() - start)


@dataclass(frozen=True)
class Described:
    """What a registry says about an image.

    :param reference: ``registry/repository@sha256:...``.
    :param manifest: the manifest's bytes.
    :param config: the configuration's bytes.
    :param layers: its layers, the lowest first.
    """

    reference: str
    manifest: bytes
    config: bytes
    layers: tuple[Descriptor, ...]


def describe(client: RegistryClient, repository: str, digest: str) -> Described:
    """Return what a registry says about an image.

    :param client: the registry.
    :param repository: the repository.
    :param digest: the digest of the image's manifest.
    :raises ImageError: when it is not there, damaged, or of a type that is not understood.
    :raises ServiceError: when the registry does not answer or refuses the login.
    """
    reference = f"{client.registry}/{repository}@{digest}"
    manifest = client.find_manifest(repository, digest)
    if manifest is None:
        raise ImageError(f"Image {reference} is not in the registry: was it deleted, or never pushed to its end?")
    content = load_json(manifest.body, f"The manifest of image {reference}")
    media_type = content.get("mediaType") or manifest.media_type
    if media_type not in MANIFESTS:
        raise ImageError(f"{reference} is of type '{media_type}', not an image for one platform: pull one that is.")
    layers = tuple(Descriptor.from_json(entry, of=reference) for entry in content.get("layers") or [])
    for layer in layers:
        if layer.media_type not in LAYERS:
            raise ImageError(
                f"Image {reference} has a layer of type '{layer.media_type}', which cannot be unpacked here."
            )
    config = Descriptor.from_json(content.get("config"), of=reference)
    return Described(reference, manifest.body, b"".join(client.read_blob(repository, config)), layers)
