"""How the bytes of a layer are packed: not at all, with gzip, or with zstd.

Not at all is what a model gets: its weights hardly compress, and a plain tar file has the same digest wherever it is written, whereas two
builds of zlib may pack the same bytes differently.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import shutil
import subprocess
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, cast

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.images.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Compression = Literal["none", "gzip", "zstd"]

MEDIA_TYPES: dict[Compression, str] = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
SUFFIXES: dict[Compression, str] = {"none": ".tar", "gzip": ".tar.gz", "zstd": ".tar.zst"}

# Level 1: higher ones cost seconds on the dependencies for a few per cent.
_GZIP_LEVEL = 1
_GZIP_CONTAINER = 16 + zlib.MAX_WBITS
# In a third of gzip's time zstd's default packs the dependencies into five sixths of gzip's size.
_ZSTD_LEVEL = 3
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_PROGRAM = "zstd"
_CHUNK = 1 << 18


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    """Packs nothing."""

    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class PackingWriter:
    """A writable stream that hashes, packs, and hashes what comes out.

    :param raw: where the packed bytes go.
    :param compression: how to pack.
    :raises ConfigurationError: when zstd is wanted but not installed.
    """

    def __init__(self, raw: BinaryIO, compression: Compression) -> None:
        self._raw = raw
        self._packer = _packer(compression)
        self._packed = hashlib.sha256()
        # What is not packed need not be hashed twice.
        self._plain = self._packed if compression == "none" else hashlib.sha256()
        self._position = 0
        self.size = 0

    def write(self, data: bytes) -> int:
        if self._plain is not self._packed:
            self._plain.update(data)
        self._position += len(data)
        self._emit(self._packer.compress(data))
        return len(data)

    def tell(self) -> int:
        return self._position

    def finish(self) -> tuple[str, str]:
        """Write what is left and return the digests of the plain and of the packed bytes."""
        self._emit(self._packer.flush())
        return "sha256:" + self._plain.hexdigest(), "sha256:" + self._packed.hexdigest()

    def _emit(self, packed: bytes) -> None:
        self._packed.update(packed)
        self.size += len(packed)
        self._raw.write(packed)


def _packer(compression: Compression) -> _Packer:
    if compression == "none":
        return _Plain()
    if compression == "gzip":
        # zlib writes the gzip header itself, with time 0 and without a file name.
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_CONTAINER)
    return cast("_Packer", _zstandard().ZstdCompressor(level=_ZSTD_LEVEL).compressobj())


@contextlib.contextmanager
def open_plain(layer: Path) -> Iterator[BinaryIO]:
    """Open a layer so that reading gives what ``tarfile`` understands: zstd is unpacked, gzip is left to it.

    :param layer: the file of the layer.
    :raises ConfigurationError: when the layer is packed with zstd, and neither the package ``zstandard`` nor the program ``zstd`` is there.
    :raises ImageError: when the layer is packed with zstd and damaged.
    """
    with layer.open("rb", buffering=0) as file:
        packed = file.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
        file.seek(0)
        with _zstd_plain(file, layer.name) if packed else io.BufferedReader(file) as plain:
            yield plain


def can_unpack_zstd() -> bool:
    """Tell whether layers with zstd can be read here."""
    return importlib.util.find_spec("zstandard") is not None or shutil.which(_ZSTD_PROGRAM) is not None


@contextlib.contextmanager
def _zstd_plain(file: io.FileIO, name: str) -> Iterator[BinaryIO]:
    program = shutil.which(_ZSTD_PROGRAM)
    if program is None or importlib.util.find_spec("zstandard") is not None:
        package = _zstandard()
        try:
            with package.ZstdDecompressor().stream_reader(file, read_across_frames=True) as plain:
                yield plain
        except package.ZstdError as error:
            raise ImageError(f"Layer {name} cannot be unpacked, its zstd is damaged: {error}.") from error
        return
    # A host of deployments has its distribution's program more likely than a package for its Python.
    command = [program, "--decompress", "--stdout", "--quiet"]
    with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - told to the type checker
        assert process.stderr is not None  # noqa: S101 - told to the type checker
        try:
            yield cast("BinaryIO", process.stdout)
            # Behind the archive's end there may be padding; whether all of it was whole is known at its end.
            while process.stdout.read(_CHUNK):
                pass
        finally:
            process.stdout.close()
            said = process.stderr.read().decode(errors="replace").strip()
        if process.wait() != 0:
            raise ImageError(f"Layer {name} cannot be unpacked, its zstd is damaged: {said}.")


def _zstandard() -> Any:
    try:
        return importlib.import_module("zstandard")
    except ImportError as error:
        raise ConfigurationError(
            "Layers with zstd need the package 'zstandard', which is not installed here: install it, "
            "or choose 'gzip' as the image's compression."
        ) from error
