"""Layers that have the same digest wherever and whenever they are made of the same files.

Times, owners and order are fixed, modes are one of two, and nothing of the machine that writes a layer goes into it.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from edge_training.exceptions import ImageError
from edge_training.images.compression import MEDIA_TYPES, Compression, PackingWriter
from edge_training.images.media_types import Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CHUNK = 1 << 20


def opener(path: Path) -> Callable[[], BinaryIO]:
    """Return a function that opens a file for reading.

    :param path: the file.
    """

    def open_it() -> BinaryIO:
        return path.open("rb")

    return open_it


@dataclass(frozen=True)
class LayerFile:
    """One file of a layer.

    :param path: where it is in the image, with forward slashes and no leading one.
    :param size: bytes.
    :param open: returns its bytes as a stream.
    :param executable: whether it gets mode 0755 instead of 0644.
    """

    path: str
    size: int
    open: Callable[[], BinaryIO]
    executable: bool = False

    @classmethod
    def of_path(cls, path: str, source: Path, *, executable: bool = False) -> LayerFile:
        """Take a file of this machine.

        :param path: where it is in the image.
        :param source: the file.
        :param executable: whether it can be run.
        :raises ImageError: when there is no such file.
        """
        if not source.is_file():
            raise ImageError(f"'{source}' is to become /{path} of an image, but there is no such file.")
        return cls(path, source.stat().st_size, opener(source), executable)

    @classmethod
    def of_bytes(cls, path: str, data: bytes, *, executable: bool = False) -> LayerFile:
        """Take bytes.

        :param path: where they are in the image.
        :param data: the bytes.
        :param executable: whether the file can be run.
        """
        return cls(path, len(data), lambda: io.BytesIO(data), executable)


@dataclass(frozen=True)
class Layer:
    """A layer that lies on this machine, ready to be sent.

    :param descriptor: what the manifest says about it.
    :param diff_id: ``sha256:<hex>`` over the tar file before it was packed.
    :param file: the tar file, packed as the descriptor says.
    :param created_by: what it holds, for ``docker history`` and the like.
    """

    descriptor: Descriptor
    diff_id: str
    file: Path
    created_by: str


def write_layer(
    files: Iterable[LayerFile], target: Path, *, root: str, created_by: str, compression: Compression = "gzip"
) -> Layer:
    """Write files as one layer; its memory need does not grow with them.

    :param files: the files, in any order.
    :param target: the file to write; its folder must exist. It appears only when it is complete.
    :param root: the folder of the image that all files are below, without slashes at its ends. Only folders from here
        on stand in the layer, so that it changes nothing about the base image's own.
    :param created_by: what the layer holds, for people.
    :param compression: how the layer is packed.
    :raises ConfigurationError: when that needs a package that is not installed.
    :raises ImageError: when two files have one path, a path leads out of ``root``, or a file changes while it is read.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as raw:
            sink = PackingWriter(raw, compression)
            _write_tar(sink, _in_order(files, root), root)
            diff_id, digest = sink.finish()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return Layer(Descriptor(MEDIA_TYPES[compression], digest, sink.size), diff_id, target, created_by)


def _in_order(files: Iterable[LayerFile], root: str) -> list[LayerFile]:
    ordered = sorted(files, key=lambda file: PurePosixPath(file.path).parts)
    seen: set[str] = set()
    for file in ordered:
        parts = PurePosixPath(file.path).parts
        if str(PurePosixPath(file.path)) != file.path or ".." in parts or not file.path.startswith(root + "/"):
            raise ImageError(f"A layer below /{root} cannot hold '{file.path}': the path leads somewhere else.")
        if file.path in seen:
            raise ImageError(f"Two files are to become /{file.path} of one image: leave one of them out.")
        seen.add(file.path)
    return ordered


def _write_tar(sink: PackingWriter, files: list[LayerFile], root: str) -> None:
    # The stream has just what TarFile uses of a file it writes to: write() and tell().
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK) as tar:  # type: ignore[call-overload]  # ... which the stubs do not know
        folders: set[str] = set()
        for file in files:
            for folder in _new_folders(file.path, root, folders):
                tar.addfile(_member(folder, tarfile.DIRTYPE, 0o755))
            member = _member(file.path, tarfile.REGTYPE, 0o755 if file.executable else 0o644)
            member.size = file.size
            _add(tar, member, file)


def _add(tar: tarfile.TarFile, member: tarfile.TarInfo, file: LayerFile) -> None:
    with file.open() as stream:
        try:
            tar.addfile(member, stream)
        except OSError as error:
            raise ImageError(f"/{file.path} of the image cannot be read to its end: {error}.") from error
        if stream.read(1):
            raise ImageError(f"/{file.path} of the image grew while it was read: nothing may write to it meanwhile.")


def _new_folders(path: str, root: str, known: set[str]) -> list[str]:
    """Return the folders from ``root`` down to a file that have not been written yet, and remember them."""
    above = [str(parent) for parent in PurePosixPath(path).parents]
    new = [folder for folder in reversed(above) if (folder + "/").startswith(root + "/") and folder not in known]
    known.update(new)
    return new


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    member.uid = member.gid = 0
    member.mtime = 0
    return member
