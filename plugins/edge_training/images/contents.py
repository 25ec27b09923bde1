"""What an image holds besides its base, as one tar archive: for a program that looks through it without unpacking it."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_training.exceptions import ImageError
from edge_training.images.compression import open_plain
from edge_training.images.model_image import APP_ROOT
from edge_training.images.pull import describe

if TYPE_CHECKING:
    from collections.abc import Collection

    from edge_training.images.media_types import Descriptor
    from edge_training.images.registry import RegistryClient

MANIFEST, CONFIG = "manifest.json", "config.json"


@dataclass(frozen=True)
class Contents:
    """An image's own layers, as members of an archive.

    :param reference: ``registry/repository@sha256:...``.
    :param layers: number of the layer, from 1 for the lowest → the layer, of those that are in the archive.
    :param notes: number of a layer → what the image's history says of it, where it says something.
    """

    reference: str
    layers: dict[int, Descriptor]
    notes: dict[int, str]

    def place(self, member: str) -> str:
        """Say for people where in the image a member of the archive is.

        :param member: its name.
        """
        number, _, path = member.partition("/")
        if not number.isdecimal() or int(number) not in self.layers:
            return f"its {member.removesuffix('.json')}" if member in {MANIFEST, CONFIG} else "the name of a file"
        note = self.notes.get(int(number))
        return f"/{path} of layer {number}" + (f" ({note})" if note else "")

    @staticmethod
    def is_served(member: str) -> bool:
        """Tell whether a member of the archive is not of an installed package, but the scoring code, the model, or the image's own words.

        :param member: its name.
        """
        return "/" not in member or member.partition("/")[2].startswith(f"{APP_ROOT}/")


def write_contents(
    client: RegistryClient, repository: str, digest: str, left_out: Collection[str], target: Path
) -> Contents:
    """Write an image's manifest, its configuration, and the files of its own layers: each below its layer's number.

    :param client: the registry.
    :param repository: the repository.
    :param digest: the digest of the image's manifest.
    :param left_out: digests of the layers that are not wanted.
    :param target: the archive; needs room for those layers, unpacked, and its folder for the largest of them once more.
    :raises ImageError: when the image, or a layer, is missing or damaged.
    :raises ServiceError: when the registry does not answer or refuses the login.
    """
    image = describe(client, repository, digest)
    wanted = {number: layer for number, layer in enumerate(image.layers, start=1) if layer.digest not in left_out}
    with tarfile.open(target, "w") as archive:
        for name, content in ((MANIFEST, image.manifest), (CONFIG, image.config)):
            archive.addfile(_file(name, len(content)), io.BytesIO(content))
        for number, layer in wanted.items():
            with tempfile.NamedTemporaryFile(dir=target.parent) as file:
                client.fetch_blob(repository, layer, Path(file.name))
                _add_layer(archive, Path(file.name), number, image.reference)
    return Contents(image.reference, wanted, _notes(image.config, len(image.layers)))


def _add_layer(archive: tarfile.TarFile, layer: Path, number: int, reference: str) -> None:
    try:
        with open_plain(layer) as plain, tarfile.open(fileobj=plain, mode="r|*") as members:
            for member in members:
                name = f"{number}/{member.name.lstrip('/')}"
                if member.isfile():
                    archive.addfile(_file(name, member.size), members.extractfile(member))
                else:
                    link = _file(name, 0)
                    link.type, link.linkname = tarfile.SYMTYPE, member.linkname
                    archive.addfile(link)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ImageError(
            f"Layer {number} of image {reference} cannot be read: {error}. Push the image anew."
        ) from error


def _file(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def _notes(config: bytes, layers: int) -> dict[int, str]:
    """Return what the history says of each layer; where it is shorter, what is missing is of the base, which is lowest."""
    try:
        history = json.loads(config).get("history") or []
        told = [str(one.get("created_by", "")) for one in history if not one.get("empty_layer")]
    except (ValueError, AttributeError):
        told = []
    return dict(zip(range(layers, 0, -1), reversed(told), strict=False)) if len(told) <= layers else {}
