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
from pathlib import Path

from edge_training.exceptions import EdgeTrainingError, ImageError
from edge_training.images.layers import Layer, LayerFile, write_layer
from edge_training.images.media_types import Descriptor
from edge_training.images.wheels import download_wheels, unpack_wheel

PREFIX = "opt/serving"
SITE_PACKAGES = f"{PREFIX}/site-packages"
PYTHON = "3.11"
PLATFORM = "linux/amd64"

# Part of the cache's key: raised when the same lock is to give another layer.
_FORMAT = 1


def serving_layer(lock: Path, cache: Path, *, platform: str = PLATFORM) -> Layer:
    """Return the layer of the wheels that a lock names, from the cache or newly made.

    :param lock: requirements with exact versions and hashes.
    :param cache: folder for finished layers; it is made when absent and may be shared.
    :param platform: ``os/architecture`` of the image.
    :raises ConfigurationError: when the lock is missing or the platform unknown.
    :raises ImageError: when a wheel cannot be downloaded or unpacked.
    """
    key = _key(lock, platform)
    file, note = cache / f"serving-{key}.tar.gz", cache / f"serving-{key}.json"
    cached = _cached(file, note)
    return cached or _make(lock, platform, file, note)


def _key(lock: Path, platform: str) -> str:
    # A missing lock is reported where it is used, with what to do about it.
    content = lock.read_bytes() if lock.is_file() else b""
    parts = json.dumps([_FORMAT, platform, PYTHON, hashlib.sha256(content).hexdigest()])
    return hashlib.sha256(parts.encode()).hexdigest()[:20]


def _cached(file: Path, note: Path) -> Layer | None:
    """Return the layer that the cache holds, or ``None`` when it holds none, or only a part of one."""
    try:
        written = json.loads(note.read_text())
        descriptor = Descriptor.from_json(written["descriptor"], of="cache")
        if file.stat().st_size == descriptor.size:
            return Layer(descriptor, str(written["diff_id"]), file, str(written["created_by"]))
    except (OSError, ValueError, KeyError, TypeError, EdgeTrainingError):
        pass  # whatever is wrong with what lies there: it is made again
    return None


def _make(lock: Path, platform: str, file: Path, note: Path) -> Layer:
    file.parent.mkdir(parents=True, exist_ok=True)
    # In the cache's own folder, so that the finished layer can be renamed into place.
    with tempfile.TemporaryDirectory(prefix="making-", dir=file.parent) as scratch:
        folder = Path(scratch)
        wheels = download_wheels(lock, folder, platform=platform, python=PYTHON)
        created_by = f"{len(wheels)} wheels of the serving dependencies for CPython {PYTHON}, {platform}"
        layer = _write(wheels, folder / file.name, created_by)
        layer.file.replace(file)
        written = {"descriptor": layer.descriptor.to_json(), "diff_id": layer.diff_id, "created_by": created_by}
        (folder / note.name).write_text(json.dumps(written))
        (folder / note.name).replace(note)
    return Layer(layer.descriptor, layer.diff_id, file, created_by)


def _write(wheels: list[Path], target: Path, created_by: str) -> Layer:
    files: list[LayerFile] = []
    with contextlib.ExitStack() as open_archives:
        for wheel in wheels:
            try:
                archive = open_archives.enter_context(zipfile.ZipFile(wheel))
            except zipfile.BadZipFile as error:
                raise ImageError(f"'{wheel.name}' is not a wheel: {error}.") from error
            files += unpack_wheel(archive, site_packages=SITE_PACKAGES, prefix=PREFIX)
        return write_layer(files, target, root=PREFIX, created_by=created_by)


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
