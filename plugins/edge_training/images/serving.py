"""The layer with the serving dependencies: made once per lock and platform, then taken from a cache.

``python -m edge_training.images.serving --lock LOCK --cache DIR`` fills the cache beforehand.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_training.exceptions import EdgeTrainingError, ImageError
from edge_training.images.compression import SUFFIXES, Compression
from edge_training.images.layers import Layer, LayerFile, write_layer
from edge_training.images.media_types import Descriptor
from edge_training.images.sbom import Package, package_of
from edge_training.images.wheels import download_wheels, unpack_wheel

PREFIX = "opt/serving"
SITE_PACKAGES = f"{PREFIX}/site-packages"
PYTHON = "3.11"
PLATFORM = "linux/amd64"

# Part of the cache's key: raised when the same lock is to give another layer.
_FORMAT = 2


@dataclass(frozen=True)
class ServingLayer(Layer):
    """A layer of serving dependencies.

    :param packages: what is installed in it.
    """

    packages: tuple[Package, ...] = ()


def serving_layer(
    lock: Path, cache: Path, *, platform: str = PLATFORM, compression: Compression = "gzip"
) -> ServingLayer:
    """Return the layer of the wheels that a lock names, from the cache or newly made.

    :param lock: requirements with exact versions and hashes.
    :param cache: folder for finished layers; it is made when absent and may be shared.
    :param platform: ``os/architecture`` of the image.
    :param compression: how the layer is packed.
    :raises ConfigurationError: when the lock is missing, or platform or compression cannot be had.
    :raises ImageError: when a wheel cannot be downloaded or unpacked.
    """
    cached = _cached(*_places(lock, cache, platform, compression))
    if cached:
        return cached
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheels-", dir=cache) as folder:
        wheels = download_wheels(lock, Path(folder), platform=platform, python=PYTHON)
        return layer_of_wheels(wheels, lock, cache, platform=platform, compression=compression)


def layer_of_wheels(
    wheels: list[Path], lock: Path, cache: Path, *, platform: str = PLATFORM, compression: Compression = "gzip"
) -> ServingLayer:
    """Make the layer of a lock of its wheels, and leave it in the cache.

    :param wheels: exactly the wheels that the lock names.
    :param lock: requirements with exact versions and hashes.
    :param cache: folder for finished layers; it must exist.
    :param platform: ``os/architecture`` of the image.
    :param compression: how the layer is packed.
    :raises ConfigurationError: when the compression cannot be had.
    :raises ImageError: when a wheel cannot be unpacked.
    """
    file, note = _places(lock, cache, platform, compression)
    created_by = f"{len(wheels)} wheels of the serving dependencies for CPython {PYTHON}, {platform}"
    # In the cache's own folder, so that the finished layer can be renamed into place.
    with tempfile.TemporaryDirectory(prefix="making-", dir=cache) as scratch:
        folder = Path(scratch)
        layer, packages = _write(wheels, folder / file.name, created_by, compression)
        layer.file.replace(file)
        written = {
            "descriptor": layer.descriptor.to_json(),
            "diff_id": layer.diff_id,
            "created_by": created_by,
            "packages": [asdict(package) for package in packages],
        }
        (folder / note.name).write_text(json.dumps(written))
        (folder / note.name).replace(note)
    return ServingLayer(layer.descriptor, layer.diff_id, file, created_by, packages)


def _places(lock: Path, cache: Path, platform: str, compression: Compression) -> tuple[Path, Path]:
    """Return the files of the layer and of what is noted about it."""
    # A missing lock is reported where it is used, with what to do about it.
    content = lock.read_bytes() if lock.is_file() else b""
    parts = json.dumps([_FORMAT, platform, PYTHON, compression, hashlib.sha256(content).hexdigest()])
    key = hashlib.sha256(parts.encode()).hexdigest()[:20]
    return cache / f"serving-{key}{SUFFIXES[compression]}", cache / f"serving-{key}.json"


def _cached(file: Path, note: Path) -> ServingLayer | None:
    """Return the layer that the cache holds, or ``None`` when it holds none, or only a part of one."""
    try:
        written = json.loads(note.read_text())
        descriptor = Descriptor.from_json(written["descriptor"], of="cache")
        packages = tuple(Package(**package) for package in written["packages"])
        if file.stat().st_size == descriptor.size:
            return ServingLayer(descriptor, str(written["diff_id"]), file, str(written["created_by"]), packages)
    except (OSError, ValueError, KeyError, TypeError, EdgeTrainingError):
        pass  # whatever is wrong with what lies there: it is made again
    return None


def _write(
    wheels: list[Path], target: Path, created_by: str, compression: Compression
) -> tuple[Layer, tuple[Package, ...]]:
    files: list[LayerFile] = []
    packages: list[Package] = []
    with contextlib.ExitStack() as open_archives:
        for wheel in wheels:
            try:
                archive = open_archives.enter_context(zipfile.ZipFile(wheel))
            except zipfile.BadZipFile as error:
                raise ImageError(f"'{wheel.name}' is not a wheel: {error}.") from error
            files += unpack_wheel(archive, site_packages=SITE_PACKAGES, prefix=PREFIX)
            packages.append(package_of(wheel, archive))
        layer = write_layer(files, target, root=PREFIX, created_by=created_by, compression=compression)
    return layer, tuple(packages)


def main() -> None:
    """Fill the cache and say what lies in it."""
    parser = argparse.ArgumentParser(description="Make the layer of the serving dependencies before it is needed.")
    parser.add_argument("--lock", type=Path, required=True, help="requirements with hashes")
    parser.add_argument("--cache", type=Path, required=True, help="folder for finished layers")
    parser.add_argument("--platform", default=PLATFORM, help="os/architecture of the image (default %(default)s)")
    arguments = parser.parse_args()
    try:
        layer = serving_layer(arguments.lock, arguments.cache, platform=arguments.platform)
    except EdgeTrainingError as error:
        parser.exit(2, f"{error}\n")
    print(f"{layer.descriptor.digest} {layer.descriptor.size / 1e6:.1f} MB {layer.file}")


if __name__ == "__main__":
    main()
