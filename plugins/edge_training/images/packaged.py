"""Images that somebody else made, Azure ML for instance: they get our lineage, and are found again on a retry."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.images.base import resolve_base
from edge_training.images.compose import ComposedImage, composed
from edge_training.images.media_types import Descriptor
from edge_training.records import ImageReference, canonical_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edge_training.images.compose import BaseImage
    from edge_training.images.registry import RegistryClient

INPUTS = "edge-training.inputs"


def inputs_digest(**inputs: object) -> str:
    """Return ``sha256:<hex>`` over all that goes into an image, by which a retry knows it again.

    :param inputs: anything that ``json.dumps`` accepts.
    """
    return canonical_digest(inputs)


def find_packaged(
    client: RegistryClient, repository: str, tag: str, inputs: str
) -> tuple[ImageReference, Descriptor] | None:
    """Return the image under a tag, and its manifest's descriptor, when it was made of the same inputs, else ``None``.

    :param client: the registry.
    :param repository: the repository.
    :param tag: the tag.
    :param inputs: the digest of the inputs.
    :raises ImageError: when what is there is not an image.
    :raises ServiceError: when the registry does not answer as it should.
    """
    manifest = client.find_manifest(repository, tag)
    if manifest is None:
        return None
    image = resolve_base(client, f"{repository}@{manifest.digest}", None)
    if labels_of(image).get(INPUTS) != inputs:
        return None
    size = sum(layer.size for layer in image.layers)
    subject = Descriptor(manifest.media_type, manifest.digest, len(manifest.body))
    return ImageReference(client.registry, repository, manifest.digest, tag, size), subject


def labels_of(image: BaseImage) -> Mapping[str, str]:
    """Return an image's labels.

    :param image: the image.
    """
    labels = (image.config.get("config") or {}).get("Labels") or {}
    return labels if isinstance(labels, dict) else {}


def with_lineage(image: BaseImage, labels: Mapping[str, str], annotations: Mapping[str, str]) -> ComposedImage:
    """Return the same image with labels and annotations of ours; no layer changes.

    :param image: the image as it was made.
    :param labels: labels, on top of those that it has.
    :param annotations: annotations of its manifest.
    """
    config = copy.deepcopy(dict(image.config))
    config["config"] = {**(config.get("config") or {}), "Labels": {**labels_of(image), **labels}}
    return composed(image, (), config, annotations)


def pinned_requirements(lock: Path) -> tuple[str, ...]:
    """Return the requirements of a lock with their exact versions, without the hashes, which Azure ML's environments cannot hold.

    :param lock: requirements with hashes.
    :raises ConfigurationError: when the lock does not exist.
    :raises ImageError: when it names nothing.
    """
    if not lock.is_file():
        raise ConfigurationError(f"The lock of the serving dependencies, '{lock}', does not exist: run 'make lock'.")
    lines = (line.partition("\\")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    found = tuple(line for line in lines if "==" in line and not line.startswith(("#", "-")))
    if not found:
        raise ImageError(f"The lock of the serving dependencies, '{lock}', names no package: run 'make lock'.")
    return found
