"""Layers and an image out of files: tar archives with fixed times and order, and the two JSON documents around them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.errors import BadRequestError
from local_site.azure_ml.names import check_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class Layer:
    """A finished layer.

    :param file: the compressed archive.
    :param digest: of the compressed archive.
    :param diff_id: of the archive itself.
    """

    file: Path
    digest: str
    diff_id: str

    def descriptor(self) -> dict[str, Any]:
        """Return how a manifest names it."""
        return {"mediaType": LAYER, "digest": self.digest, "size": self.file.stat().st_size}


def write_layer(files: Iterable[tuple[str, Path, bool]], target: Path) -> Layer:
    """Write files as a layer; the same files always make the same layer.

    :param files: path in the image, file, and whether it can be executed.
    :param target: where the layer goes.
    """
    plain = target.with_suffix(".tar")
    with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as archive:
        made: set[str] = set()
        for path, file, executable in sorted(files):
            _add_folders(archive, path, made)
            entry = _entry(path, 0o755 if executable else 0o644)
            entry.size = file.stat().st_size
            with file.open("rb") as stream:
                archive.addfile(entry, stream)
    with (
        plain.open("rb") as source,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed, 1024 * 1024)
    layer = Layer(target, digest_of(target), digest_of(plain))
    plain.unlink()
    return layer


def unpacked(archive: Path, folder: Path) -> dict[str, Path]:
    """Unpack a tar archive's regular files, and return them by their names in it.

    :raises BadRequestError: when it is none, or a name would leave the folder.
    """
    found = {}
    try:
        with tarfile.open(archive) as source:
            for number, member in enumerate(source):
                content = source.extractfile(member) if member.isreg() else None
                if content is None:
                    continue
                path = folder / str(number)
                with path.open("wb") as target:
                    shutil.copyfileobj(content, target, 1024 * 1024)
                found[check_path(member.name, "packed file")] = path
    except tarfile.TarError as error:
        raise BadRequestError(f"The source folder is not a tar archive: {error}.") from error
    return found


def make_config(
    base: dict[str, Any], layers: list[Layer], variables: dict[str, str], command: list[str], port: int
) -> bytes:
    """Return the configuration of an image on top of a base image's."""
    inherited = base.get("config") or {}
    variables = dict(line.partition("=")[::2] for line in inherited.get("Env") or []) | variables
    content = {
        "architecture": base.get("architecture", "amd64"),
        "os": base.get("os", "linux"),
        "created": EPOCH,
        "config": {
            **inherited,
            "Env": [f"{name}={value}" for name, value in variables.items()],
            "Entrypoint": command,
            "Cmd": None,
            "User": "65532:65532",
            "WorkingDir": "/var/azureml-app",
            "ExposedPorts": {f"{port}/tcp": {}},
        },
        "rootfs": {"type": "layers", "diff_ids": [*base["rootfs"]["diff_ids"], *(layer.diff_id for layer in layers)]},
        "history": [*(base.get("history") or []), *({"created": EPOCH, "created_by": "package"} for _ in layers)],
    }
    return json.dumps(content, sort_keys=True).encode()


def make_manifest(base: dict[str, Any], config: bytes, layers: list[Layer]) -> bytes:
    """Return the manifest of an image on top of a base image's."""
    below = [{**layer, "mediaType": _oci(layer["mediaType"])} for layer in base["layers"]]
    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": f"sha256:{hashlib.sha256(config).hexdigest()}", "size": len(config)},
        "layers": [*below, *(layer.descriptor() for layer in layers)],
    }
    return json.dumps(content, sort_keys=True).encode()


def digest_of(path: Path) -> str:
    """Return a file's digest as registries write it."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _oci(media_type: str) -> str:
    return LAYER if media_type == "application/vnd.docker.image.rootfs.diff.tar.gzip" else media_type


def _add_folders(archive: tarfile.TarFile, path: str, made: set[str]) -> None:
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        folder = "/".join(parts[:depth])
        if folder not in made:
            made.add(folder)
            entry = _entry(folder, 0o755)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry, io.BytesIO())


def _entry(path: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.mode, entry.mtime = mode, 0
    return entry
