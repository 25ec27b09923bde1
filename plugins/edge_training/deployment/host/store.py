"""The images that a host holds, unpacked: one folder per chain of layers, made of links to the files of the chain below it.

So a new model costs one layer, and the dependencies below it are unpacked once. Before a folder is used it is checked to be still
what was unpacked: names, modes, sizes and times of all its files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training.deployment.host import compiled
from edge_training.deployment.host.errors import HostError
from edge_training.exceptions import ImageError
from edge_training.images.unpack import RootFolder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from edge_training.deployment.host.fetch import Registry
    from edge_training.deployment.host.sandbox import Isolation
    from edge_training.images.media_types import Descriptor

# Images may lack them, and where they run the root is read-only.
_MOUNT_POINTS = ("dev", "proc", "tmp")


@dataclass(frozen=True)
class StoredImage:
    """An image that can be started here.

    :param reference: ``registry/repository@sha256:...``.
    :param digest: of its manifest.
    :param root: the folder with its files.
    :param run: what its configuration says about running it.
    :param layers: how many it has.
    :param fetched: how many of them were not here yet.
    :param bytes: of its layers as the registry keeps them.
    :param seconds: how long it took to get it here.
    """

    reference: str
    digest: str
    root: Path
    run: dict[str, Any]
    layers: int
    fetched: int
    bytes: int
    seconds: float


class Store:
    """All images of a host.

    :param folder: where they are kept; made when missing, readable by the account alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get(self, registry: Registry, repository: str, digest: str) -> StoredImage:
        """Return an image, fetched as far as it is not here.

        :param registry: where it is fetched from.
        :param repository: the repository.
        :param digest: of its manifest.
        :raises HostError: when it cannot be fetched, is damaged, or does not fit on the disk.
        """
        begin = time.monotonic()
        config, layers = registry.image(repository, digest)
        with self._locked():
            root, fetched = self._chain(registry, repository, layers)
            note = {"chains": [_chain_id(layers[: count + 1]) for count in range(len(layers))]}
            _write(self._image_note(digest), note)
        run = config.get("config") or {}
        size = sum(layer.size for layer in layers)
        reference = f"{registry.address}/{repository}@{digest}"
        return StoredImage(reference, digest, root, run, len(layers), fetched, size, time.monotonic() - begin)

    def compile(self, image: StoredImage, kind: Isolation) -> int:
        """Add to an image's files what its Python compiles, once; images that are unpacked from here on have it from there.

        :param image: the image, whose command is run.
        :param kind: what it is run in.
        :returns: how many compiled modules there are.
        :raises HostError: when there are none; the next call tries again.
        """
        with self._locked():
            file = image.root.parent / "note"
            note = _read(file)
            if "compiled" not in note:
                # What is added without this being noted, by one who fails or is killed, makes the root one that is fetched anew.
                note["compiled"] = compiled.run_and_keep(kind, image.run, image.root, self.folder)
                _write(file, {**note, "fingerprint": _fingerprint(image.root)})
        return int(note["compiled"])

    def prune(self, keep: Iterable[str], unused_seconds: float) -> list[str]:
        """Remove all images but some, and return the digests of those that went.

        :param keep: digests of images that stay; chains that they share with others stay too.
        :param unused_seconds: an image that was asked for more recently stays as well: somebody may be trying it out.
        """
        with self._locked():
            notes = {"sha256:" + path.stem: path for path in self.folder.glob("*.image")}
            recent = {digest for digest, path in notes.items() if time.time() - path.stat().st_mtime < unused_seconds}
            kept = recent.union(keep)
            used = {
                chain for digest, path in notes.items() if digest in kept for chain in _read(path).get("chains", ())
            }
            for folder in self.folder.glob("*.chain"):
                if folder.stem not in used:
                    shutil.rmtree(folder)
            gone = sorted(set(notes) - kept)
            for digest in gone:
                notes[digest].unlink()
        return gone

    def _image_note(self, digest: str) -> Path:
        return self.folder / f"{digest.removeprefix('sha256:')}.image"

    def _chain(self, registry: Registry, repository: str, layers: Sequence[Descriptor]) -> tuple[Path, int]:
        """Return the root made of some layers, and how many had to be fetched."""
        if not layers:
            raise HostError("image", f"An image of {repository} has no layers.")
        final = self.folder / f"{_chain_id(layers)}.chain"
        if self._is_whole(final):
            return final / "root", 0
        below, fetched = self._chain(registry, repository, layers[:-1]) if len(layers) > 1 else (None, 0)
        scratch = Path(tempfile.mkdtemp(prefix="making-", dir=self.folder))
        try:
            self._unpack(registry, repository, layers, below, scratch)
            scratch.rename(final)
        except OSError as error:
            raise HostError(
                "host", f"The host cannot unpack an image in {self.folder}: {error.strerror or error}.", retryable=True
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return final / "root", fetched + 1

    def _unpack(
        self, registry: Registry, repository: str, layers: Sequence[Descriptor], below: Path | None, scratch: Path
    ) -> None:
        """Make a root of what is below and the last of some layers."""
        blob, root = scratch / "layer", scratch / "root"
        registry.fetch(repository, layers[-1], blob)
        root.mkdir()
        # Whatever this program's own mask says: the image's user has to find what is in it.
        root.chmod(0o755)
        source = self._compiled_below(layers)
        if below is not None:
            _link_tree(below, root)
            had = {"", below.parent.name, _read(below.parent / "note").get("compiled_in")}
            if source not in had and self._is_whole(self.folder / source):
                compiled.link(self.folder / source / "root", root)
        try:
            RootFolder(root).apply(blob)
        except ImageError as error:
            raise HostError("image", str(error)) from error
        blob.unlink()
        for name in _MOUNT_POINTS:
            (root / name).mkdir(exist_ok=True)
        note = {"layer": layers[-1].digest, "fingerprint": _fingerprint(root), "compiled_in": source}
        _write(scratch / "note", note)

    def _compiled_below(self, layers: Sequence[Descriptor]) -> str:
        """Return the name of the highest chain below the last of some layers whose modules were compiled; ``""`` for none."""
        for count in range(len(layers) - 1, 0, -1):
            chain = self.folder / f"{_chain_id(layers[:count])}.chain"
            if _read(chain / "note").get("compiled"):
                return chain.name
        return ""

    def _is_whole(self, chain: Path) -> bool:
        """Tell whether a chain is here as it was unpacked; what was changed is removed, to be fetched anew."""
        note = _read(chain / "note")
        if note and note.get("fingerprint") == _fingerprint(chain / "root"):
            return True
        if chain.exists():
            shutil.rmtree(chain)
        return False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for left in self.folder.glob("making-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield


def _chain_id(layers: Sequence[Descriptor]) -> str:
    return hashlib.sha256(" ".join(layer.digest for layer in layers).encode()).hexdigest()


def _link_tree(source: Path, target: Path) -> None:
    """Make a folder with the same files as another one, as hard links: nothing ever writes to a file that is there."""
    with os.scandir(source) as entries:
        for entry in entries:
            path = target / entry.name
            if entry.is_dir(follow_symlinks=False):
                path.mkdir()
                _link_tree(Path(entry.path), path)
                path.chmod(stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode))
            else:
                os.link(entry.path, path, follow_symlinks=False)


def _fingerprint(root: Path) -> str:
    """Return a digest over names, modes, sizes, times and link targets of all files of a root."""
    seen = hashlib.sha256()
    for line in _lines(str(root), ""):
        seen.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return seen.hexdigest()


def _lines(folder: str, name: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path, status = f"{name}/{entry.name}", entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            yield f"{path} {status.st_mode:o}"
            yield from _lines(entry.path, path)
        elif entry.is_symlink():
            yield f"{path} {Path(entry.path).readlink()}"
        else:
            yield f"{path} {status.st_mode:o} {status.st_size} {status.st_mtime_ns}"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(path: Path, value: object) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value))
    partial.replace(path)
