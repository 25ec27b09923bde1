"""An image is a base image, further layers, and what to run: no daemon and no build step."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ImageError
from edge_training.images.media_types import OCI_CONFIG, OCI_MANIFEST, Descriptor, canonical_json, digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_training.images.layers import Layer

# A time of its own would give the same image another digest each time that it is made.
EPOCH = "1970-01-01T00:00:00Z"
BASE_NAME, BASE_DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class BaseImage:
    """An image of the registry that ours stand on.

    :param reference: ``registry/repository@sha256:...``, of the image for one platform.
    :param repository: its repository.
    :param digest: its manifest's digest.
    :param platform: ``os/architecture``.
    :param layers: its layers, by the media types that our manifests use.
    :param config: its configuration, with what to run and the layers' diff ids.
    """

    reference: str
    repository: str
    digest: str
    platform: str
    layers: tuple[Descriptor, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class RunSettings:
    """What a container of the image runs, and what it says about itself.

    :param entrypoint: the program and its arguments.
    :param environment: variables, on top of the base's.
    :param path_prefix: folders that come before the base's ``PATH``.
    :param user: ``uid:gid``.
    :param working_directory: absolute path.
    :param port: the TCP port that it listens on.
    :param labels: for tools that look at the configuration.
    :param annotations: for tools that look at the manifest.
    :param created: ISO 8601, UTC; fixed unless the caller has a time that is part of the inputs.
    """

    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]
    path_prefix: tuple[str, ...]
    user: str
    working_directory: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    created: str = EPOCH


@dataclass(frozen=True)
class ComposedImage:
    """An image that lies on this machine, apart from the base's layers.

    :param base: what it stands on.
    :param layers: the layers on top of the base's.
    :param config: the configuration as it is sent.
    :param manifest: the manifest as it is sent.
    """

    base: BaseImage
    layers: tuple[Layer, ...]
    config: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        """Return the image's digest, that of its manifest."""
        return digest_of(self.manifest)

    @property
    def descriptor(self) -> Descriptor:
        """Return what an index or a referrer says about the manifest."""
        return Descriptor.of_bytes(OCI_MANIFEST, self.manifest)

    @property
    def config_descriptor(self) -> Descriptor:
        """Return what the manifest says about the configuration."""
        return Descriptor.of_bytes(OCI_CONFIG, self.config)

    @property
    def size(self) -> int:
        """Return the bytes of all layers as they are stored."""
        return sum(layer.size for layer in self.base.layers) + sum(layer.descriptor.size for layer in self.layers)


def compose(base: BaseImage, layers: tuple[Layer, ...], settings: RunSettings) -> ComposedImage:
    """Put layers on a base image; the same inputs give the same digest.

    :param base: the base image.
    :param layers: the new layers, the one that changes most often last.
    :param settings: what to run.
    :raises ImageError: when the base's configuration does not fit its layers.
    """
    return composed(base, layers, _config(base, layers, settings), settings.annotations)


def composed(
    base: BaseImage, layers: tuple[Layer, ...], config: Mapping[str, Any], annotations: Mapping[str, str]
) -> ComposedImage:
    """Return the image of a base, layers and a finished configuration.

    :param base: the base image.
    :param layers: the layers on top of the base's.
    :param config: the configuration, with the diff ids of all layers.
    :param annotations: for tools that look at the manifest, on top of the base's name and digest.
    """
    config_bytes = canonical_json(config)
    descriptors = [*base.layers, *(layer.descriptor for layer in layers)]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor.of_bytes(OCI_CONFIG, config_bytes).to_json(),
        "layers": [descriptor.to_json() for descriptor in descriptors],
        "annotations": {
            BASE_NAME: base.reference,
            BASE_DIGEST: base.digest,
            **annotations,
        },
    }
    return ComposedImage(base, layers, config_bytes, canonical_json(manifest))


def _config(base: BaseImage, layers: tuple[Layer, ...], settings: RunSettings) -> dict[str, Any]:
    config = copy.deepcopy(dict(base.config))
    diff_ids = _diff_ids(base, config)
    run = config.get("config") or {}
    run |= {
        "Env": _environment(run.get("Env") or [], settings),
        "Entrypoint": list(settings.entrypoint),
        "WorkingDir": settings.working_directory,
        "User": settings.user,
        "ExposedPorts": {f"{settings.port}/tcp": {}},
        "Labels": {**(run.get("Labels") or {}), **settings.labels},
    }
    # The base's command and health check are about the base's program.
    for name in ("Cmd", "Healthcheck", "ArgsEscaped"):
        run.pop(name, None)
    config["config"] = run
    config["created"] = settings.created
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids + [layer.diff_id for layer in layers]}
    new = [{"created": settings.created, "created_by": layer.created_by} for layer in layers]
    # What a builder left of itself (the host's name, the version of its engine) says nothing about this image.
    for name in ("container", "container_config", "docker_version", "id", "parent"):
        config.pop(name, None)
    config["history"] = [*(config.get("history") or []), *new]
    return config


def _diff_ids(base: BaseImage, config: dict[str, Any]) -> list[str]:
    diff_ids = (config.get("rootfs") or {}).get("diff_ids")
    if not isinstance(diff_ids, list) or len(diff_ids) != len(base.layers):
        raise ImageError(
            f"Base image {base.reference} is damaged: its manifest has {len(base.layers)} layers, "
            f"its configuration {len(diff_ids) if isinstance(diff_ids, list) else 'no'} diff ids. Push it anew."
        )
    return diff_ids


def _environment(of_base: list[str], settings: RunSettings) -> list[str]:
    """Return the base's variables in their order, then ours in alphabetical order."""
    merged = dict(entry.partition("=")[::2] for entry in of_base)
    merged["PATH"] = ":".join([*settings.path_prefix, merged.get("PATH") or _DEFAULT_PATH])
    merged |= dict(sorted(settings.environment.items()))
    return [f"{name}={value}" for name, value in merged.items()]


def load_json(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object that came from a registry.

    :param data: the bytes.
    :param what: what they are, for the error.
    :raises ImageError: when they are not a JSON object.
    """
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ImageError(f"{what} is not a JSON object: the registry's content is damaged, push the image anew.")
    return value
