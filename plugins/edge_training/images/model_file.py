"""Whether a model file is what its name says: a truncated or mislabelled one is found before it is served, not by who asks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from edge_training.exceptions import ImageError

if TYPE_CHECKING:
    from pathlib import Path

# What files of a kind begin with; joblib may pack its pickles with one of several programs.
_ZIP = b"PK\x03\x04"
_PACKED = (b"\x78", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00")
_BEGINNINGS: dict[str, tuple[bytes, ...]] = {
    ".pkl": (b"\x80", *_PACKED),
    ".pickle": (b"\x80", *_PACKED),
    ".joblib": (b"\x80", *_PACKED),
    ".pt": (_ZIP, b"\x80"),
    ".pth": (_ZIP, b"\x80"),
    ".h5": (b"\x89HDF\r\n\x1a\n",),
    ".hdf5": (b"\x89HDF\r\n\x1a\n",),
    ".keras": (_ZIP,),
    ".npz": (_ZIP,),
    ".zip": (_ZIP,),
    ".json": (b"{", b"["),
    ".pmml": (b"<",),
}
# Wire types of protocol buffers: their fixed sizes in bytes; 0 is a number, 2 a length and as many bytes.
_FIXED = {1: 8, 5: 4}
_ONNX_VERSION, _ONNX_GRAPH = 1, 7


def check_model_file(file: Path) -> None:
    """Make sure that a model file is what its extension says; files with an extension that is not known are let through.

    :param file: the file; a bounded part of it is read.
    :raises ImageError: when it is empty, damaged or something else.
    """
    kind = file.suffix.lower()
    with file.open("rb") as stream:
        found = stream.read(16)
        if kind == ".onnx":
            problem = "" if _is_onnx(file, stream) else "not an ONNX model, or not all of one"
        elif not found:
            problem = "empty"
        else:
            beginnings = _BEGINNINGS.get(kind)
            problem = "" if beginnings is None or found.lstrip().startswith(beginnings) else f"no {kind} file"
    if problem:
        raise ImageError(
            f"Model file '{file.name}' is {problem} ({file.stat().st_size} bytes): it is not put into an image. "
            "Check what the training script saves under that name."
        )


def _is_onnx(file: Path, stream: BinaryIO) -> bool:
    """Tell whether a file consists of whole fields of a protocol buffer, a version and a graph among them."""
    size, fields = file.stat().st_size, set()
    stream.seek(0)
    while stream.tell() < size:
        key = _number(stream)
        if key is None or key >> 3 == 0:
            return False
        length = _number(stream) if key & 7 in {0, 2} else _FIXED.get(key & 7)
        if length is None:
            return False
        if key & 7 != 0:
            stream.seek(length, 1)
        fields.add((key >> 3, key & 7))
    return stream.tell() == size and {(_ONNX_VERSION, 0), (_ONNX_GRAPH, 2)} <= fields


def _number(stream: BinaryIO) -> int | None:
    """Read a number of variable length; ``None`` when it does not end."""
    value = 0
    for position in range(10):
        byte = stream.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << 7 * position
        if byte[0] < 0x80:
            return value
    return None
