"""An OCI layout: a folder with images, to be carried to where no network leads.

Its form is described in github.com/opencontainers/image-spec, ``image-layout.md``; skopeo, podman and containerd read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.images.compose import load_json
from edge_training.images.interfaces import Published, Transfer, Way
from edge_training.images.media_types import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json
from edge_training.images.references import check_tag
from edge_training.images.referrers import EMPTY, Attachment
from edge_training.images.upload import damaged, digest_of_file
from edge_training.records import ImageReference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_training.images.compose import ComposedImage
    from edge_training.images.registry import RegistryClient

_REF_NAME = "org.opencontainers.image.ref.name"


class LayoutPublisher:
    """Publishes to a folder; a :class:`~edge_training.images.interfaces.Publisher`.

    :param folder: the layout; it is made when absent, and may hold other images already.
    :param client: the registry that holds the images' bases.
    :raises ConfigurationError: when the folder holds something else.
    """

    def __init__(self, folder: Path, client: RegistryClient) -> None:
        self._folder, self._client = folder, client
        if folder.exists() and any(folder.iterdir()) and not (folder / "oci-layout").is_file():
            raise ConfigurationError(
                f"'{folder}' holds something else than an OCI layout: name an empty folder, or one that does not exist."
            )

    def publish(self, image: ComposedImage, tag: str, attachments: tuple[Attachment, ...] = ()) -> Published:
        """Write an image; the folder's index names it only when all of it is there.

        :param image: the image.
        :param tag: its tag, for people.
        :param attachments: documents that are attached to it.
        :raises ConfigurationError: when the tag is not one.
        :raises ImageError: when a layer was changed after it was made, or the folder's index is damaged.
        :raises ServiceError: when the registry does not give the base's layers.
        """
        check_tag(tag)
        self._begin()
        repository = image.base.repository
        transfers = [
            self._store(layer, lambda path, layer=layer: self._client.fetch_blob(repository, layer, path), "copied")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            for layer in image.base.layers
        ]
        transfers += [self._store(layer.descriptor, _copier(layer.file), "sent") for layer in image.layers]
        transfers.append(self._store_bytes(image.config_descriptor, image.config))
        subject = image.descriptor
        self._store_bytes(subject, image.manifest)
        listed = [self._attach(subject, attachment) for attachment in attachments]
        before = self._name(subject, tag, listed)
        reference = ImageReference(f"oci:{self._folder.parent}", self._folder.name, image.digest, tag, image.size)
        return Published(reference, tuple(transfers), before if before != image.digest else "")

    def _begin(self) -> None:
        (self._folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        _write(self._folder / "oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"}))

    def _attach(self, subject: Descriptor, attachment: Attachment) -> dict[str, Any]:
        self._store_bytes(Descriptor.of_bytes(OCI_EMPTY, EMPTY), EMPTY)
        self._store_bytes(attachment.descriptor, attachment.data)
        body = attachment.manifest(subject)
        self._store_bytes(Descriptor.of_bytes(OCI_MANIFEST, body), body)
        return attachment.listed(subject)

    def _store_bytes(self, descriptor: Descriptor, data: bytes) -> Transfer:
        return self._store(descriptor, lambda path: path.write_bytes(data), "sent")

    def _store(self, descriptor: Descriptor, fill: Callable[[Path], object], way: Way) -> Transfer:
        """Write a blob unless it is there; it appears only when it is what its digest says."""
        start = time.monotonic()
        path = self._folder / "blobs/sha256" / descriptor.digest.removeprefix("sha256:")
        if path.is_file() and path.stat().st_size == descriptor.size:
            return Transfer(descriptor, "present", time.monotonic() - start)
        partial = path.with_name(path.name + ".partial")
        try:
            fill(partial)
            found = digest_of_file(partial)
            if found != descriptor.digest:
                raise damaged(descriptor, found)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return Transfer(descriptor, way, time.monotonic() - start)

    def _name(self, subject: Descriptor, tag: str, listed: list[dict[str, Any]]) -> str:
        """Let the index name an image and what is attached to it; return the digest that had the tag before."""
        with self._locked():
            path = self._folder / "index.json"
            index = load_json(path.read_bytes(), f"'{path}'") if path.exists() else {}
            entries = index.get("manifests") or []
            if not isinstance(entries, list):
                raise ImageError(
                    f"'{path}' has no list of manifests: the layout is damaged, write it to another folder."
                )
            before = next((str(entry.get("digest")) for entry in entries if _tag_of(entry) == tag), "")
            new = [{**subject.to_json(), "annotations": {_REF_NAME: tag}}, *listed]
            digests = {entry["digest"] for entry in listed}
            kept = [entry for entry in entries if _tag_of(entry) != tag and entry.get("digest") not in digests]
            content = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*kept, *new]}
            _write(path, json.dumps(content, indent=1).encode())
        return before

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "oci-layout").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _tag_of(entry: dict[str, Any]) -> str:
    return str((entry.get("annotations") or {}).get(_REF_NAME, ""))


def _copier(source: Path) -> Callable[[Path], object]:
    return lambda target: shutil.copyfile(source, target)


def _write(path: Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() == data:
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
