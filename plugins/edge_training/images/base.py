"""Finds the base image: the exact one that a name stands for now, for one platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ImageError
from edge_training.images.compose import BaseImage, load_json
from edge_training.images.media_types import CONFIGS, INDEXES, LAYERS, MANIFESTS, Descriptor
from edge_training.images.references import Reference, parse_reference

if TYPE_CHECKING:
    from edge_training.images.registry import Manifest, RegistryClient


def resolve_base(client: RegistryClient, name: str, platform: str | None) -> BaseImage:
    """Return the image that a name stands for.

    :param client: the registry.
    :param name: ``repository:tag``, ``repository@sha256:...``, or the same with the registry in front.
    :param platform: ``os/architecture``, such as ``linux/amd64``; ``None`` for whichever the name stands for, when it
        stands for one image and not for several.
    :raises ConfigurationError: when the name is not one, or is in another registry.
    :raises ImageError: when there is no such image, none for the platform, or none that we understand.
    :raises ServiceError: when the registry does not answer or refuses the login.
    """
    reference = parse_reference(name, client.registry)
    manifest = client.find_manifest(reference.repository, reference.wanted)
    if manifest is None:
        raise ImageError(
            f"Base image {reference} is not in the registry. Push it there, or correct 'base' in the site's file "
            "(with an Azure registry: az acr repository show-tags lists what is there)."
        )
    content = load_json(manifest.body, f"The manifest of image {reference}")
    if _media_type(manifest, content) in INDEXES:
        manifest, content = _choose(client, reference, content, platform)
    return _read(client, reference, manifest, content, platform)


def _media_type(manifest: Manifest, content: dict[str, Any]) -> str:
    """Return what a manifest is: what it says itself, else what the registry says."""
    return str(content.get("mediaType") or manifest.media_type)


def _choose(
    client: RegistryClient, reference: Reference, index: dict[str, Any], platform: str | None
) -> tuple[Manifest, dict[str, Any]]:
    entries = [entry for entry in index.get("manifests") or [] if isinstance(entry, dict)]
    offered = [_platform_of(entry.get("platform") or {}) for entry in entries]
    if platform is None or platform not in offered:
        wanted = platform or "one platform only"
        raise ImageError(
            f"Base image {reference} is not for {wanted}: it is for {', '.join(sorted(set(offered))) or 'nothing'}. "
            "Choose another base, or another 'platform' in the site's file."
        )
    chosen = Descriptor.from_json(entries[offered.index(platform)], of=str(reference))
    manifest = client.find_manifest(reference.repository, chosen.digest)
    if manifest is None:
        raise ImageError(
            f"Base image {reference} names {chosen.digest} for {platform}, which is not there: push it anew."
        )
    return manifest, load_json(manifest.body, f"The manifest of image {reference} for {platform}")


def _read(
    client: RegistryClient, reference: Reference, manifest: Manifest, content: dict[str, Any], platform: str | None
) -> BaseImage:
    media_type = _media_type(manifest, content)
    if media_type not in MANIFESTS:
        raise ImageError(
            f"Base image {reference} has a manifest of type '{media_type or 'unknown'}', which is not understood: "
            "push it with a current tool, as an OCI image."
        )
    layers = tuple(_layer(entry, reference) for entry in content.get("layers") or [])
    descriptor = Descriptor.from_json(content.get("config"), of=str(reference))
    if descriptor.media_type not in CONFIGS:
        raise ImageError(f"{reference} is not a container image but holds '{descriptor.media_type}': correct 'base'.")
    config = load_json(
        b"".join(client.read_blob(reference.repository, descriptor)), f"The configuration of image {reference}"
    )
    found = _platform_of(config)
    if platform is not None and found != platform:
        raise ImageError(f"Base image {reference} is for {found}, not for {platform}: choose another base or platform.")
    pinned = Reference(reference.registry, reference.repository, digest=manifest.digest)
    return BaseImage(str(pinned), reference.repository, manifest.digest, found, layers, config)


def _layer(entry: object, reference: Reference) -> Descriptor:
    descriptor = Descriptor.from_json(entry, of=str(reference))
    if descriptor.media_type not in LAYERS:
        raise ImageError(
            f"Base image {reference} has a layer of type '{descriptor.media_type}', which is not understood: "
            "push it with a current tool, as an OCI image with gzip or zstd layers."
        )
    return Descriptor(LAYERS[descriptor.media_type], descriptor.digest, descriptor.size)


def _platform_of(value: dict[str, Any]) -> str:
    # A variant, such as arm's v8, is left out: it tells no two images apart for the platforms that we serve on.
    return f"{value.get('os', 'unknown')}/{value.get('architecture', 'unknown')}"
