"""Copies an image from the registry into a folder in the OCI image layout, to be carried to where no registry can be reached."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from edge_training.deployment.notes import write_whole
from edge_training.exceptions import DeploymentError, ImageError
from edge_training.images.compose import load_json
from edge_training.images.media_types import Descriptor

if TYPE_CHECKING:
    from pathlib import Path

    from edge_training.images.registry import RegistryClient

_NAME = "org.opencontainers.image.ref.name"


def copy_image(client: RegistryClient, repository: str, digest: str, folder: Path, name: str) -> int:
    """Copy an image, and return how many bytes had to be fetched; blobs that are there and whole are not.

    :param client: the registry.
    :param repository: the repository.
    :param digest: of the image's manifest.
    :param folder: the layout; made when missing, others' images in it stay.
    :param name: the name by which the image is found in the layout; an earlier image of that name loses it.
    :raises ImageError: when the image is missing or damaged.
    :raises DeploymentError: when the folder cannot be written.
    :raises ServiceError: when the registry does not answer.
    """
    manifest = client.find_manifest(repository, digest)
    if manifest is None:
        raise ImageError(f"Image {client.registry}/{repository}@{digest} is not in the registry: was it deleted?")
    content = load_json(manifest.body, f"The manifest of image {repository}@{digest}")
    blobs = [Descriptor.from_json(one, of=digest) for one in [content.get("config"), *(content.get("layers") or [])]]
    try:
        fetched = sum(_fetch(client, repository, blob, _blob(folder, blob.digest)) for blob in blobs)
        _blob(folder, digest).write_bytes(manifest.body)
    except OSError as error:
        raise DeploymentError(
            f"The image layout '{folder}' cannot be written: {error.strerror or error}.", retryable=True
        ) from error
    described = Descriptor(manifest.media_type, digest, len(manifest.body)).to_json()
    write_whole(folder / "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}))
    # Last, so that whoever reads the layout meanwhile finds nothing that is not whole.
    write_whole(
        folder / "index.json", json.dumps(_index(folder, {**described, "annotations": {_NAME: name}}), indent=1)
    )
    return fetched


def _fetch(client: RegistryClient, repository: str, blob: Descriptor, target: Path) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        with target.open("rb") as file:
            if "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == blob.digest:
                return 0
    client.fetch_blob(repository, blob, target)
    return blob.size


def _index(folder: Path, image: dict[str, Any]) -> dict[str, Any]:
    path, name = folder / "index.json", image["annotations"][_NAME]
    try:
        before = json.loads(path.read_text())["manifests"] if path.exists() else []
        others = [one for one in before if (one.get("annotations") or {}).get(_NAME) != name]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DeploymentError(f"'{path}' is not the index of an image layout: choose an empty folder.") from error
    return {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [*others, image]}


def _blob(folder: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return folder / "blobs" / algorithm / value
