"""Tells whether a file is an ONNX model, from its first byte to its last, and takes out the numbers that lie scattered in it.

ONNX is a protocol buffer: fields with a number, a kind of storage, and a content. Only the fields of the published format are
taken, each stored as it should be; so nothing can be put in front of a model, behind it, or into fields that nobody reads.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_DEPTH = 32
_FEWEST = 4


class NotOnnxError(ValueError):
    """The file is no ONNX model, or not only one."""


# For each message the fields it has: how each is stored, or the message it holds. Several ways mean that either will do.
_V, _B, _F = (_VARINT,), (_BYTES,), (_FIXED32,)
_FORMAT: dict[str, dict[int, Any]] = {
    "model": {1: _V, 2: _B, 3: _B, 4: _B, 5: _V, 6: _B, 7: "graph", 8: "opset", 14: "pair", 25: _B, 26: _B},
    "opset": {1: _B, 2: _V},
    "pair": {1: _B, 2: _B},
    "graph": {
        **dict.fromkeys((11, 12, 13), "value"),
        **dict.fromkeys((2, 10, 14), _B),
        1: "node",
        5: "tensor",
        15: "sparse",
        16: "pair",
    },
    "node": {**dict.fromkeys((1, 2, 3, 4, 6, 7, 8, 10), _B), 5: "attribute", 9: "pair"},
    "value": {1: _B, 2: _B, 3: _B, 4: "pair"},
    "attribute": {
        **dict.fromkeys((1, 4, 9, 13, 14, 15, 21), _B),
        **dict.fromkeys((3, 20), _V),
        **dict.fromkeys((5, 10), "tensor"),
        **dict.fromkeys((6, 11), "graph"),
        **dict.fromkeys((22, 23), "sparse"),
        2: _F,
        7: (_FIXED32, _BYTES),
        8: (_VARINT, _BYTES),
    },
    "sparse": {1: "tensor", 2: "tensor", 3: (_VARINT, _BYTES)},
    "tensor": {
        **dict.fromkeys((1, 5, 7, 11), (_VARINT, _BYTES)),
        **dict.fromkeys((3, 6, 8, 9, 12), _B),
        2: _V,
        4: (_FIXED32, _BYTES),
        10: (_FIXED64, _BYTES),
        16: "pair",
    },
}
# Where a message's numbers lie one by one, each with a tag before it, or as numbers of changing length.
_SCATTERED = {
    ("attribute", 7),
    ("attribute", 8),
    ("tensor", 4),
    ("tensor", 5),
    ("tensor", 7),
    ("tensor", 10),
    ("tensor", 11),
}


def check_onnx(content: Any) -> None:
    """Refuse a file that is no ONNX model.

    :param content: bytes, or anything with the same buffer.
    :raises NotOnnxError: when it is not, or has more than that; also when its data lie in another file.
    """
    view = memoryview(content)
    fields = {number for number, *_ in _fields(view)}
    if not {1, 7, 8} <= fields:
        raise NotOnnxError("it has no version, graph or operator set")
    for _ in _walk(view, "model", 0):
        pass


def onnx_numbers(content: Any) -> Iterator[bytes]:
    """Yield the scattered numbers of an ONNX model as arrays of double precision; nothing when it is no such model."""
    try:
        check_onnx(content)
    except NotOnnxError:
        return
    yield from _walk(memoryview(content), "model", 0)


def _walk(view: memoryview, message: str, depth: int) -> Iterator[bytes]:
    if depth > _MOST_DEPTH:
        raise NotOnnxError("it is nested too deeply")
    scattered: dict[int, list[float]] = {}
    for number, kind, value in _fields(view):
        rule = _FORMAT[message].get(number)
        if rule is None:
            raise NotOnnxError(f"a {message} has the unknown field {number}")
        if isinstance(rule, str):
            if kind != _BYTES:
                raise NotOnnxError(f"field {number} of a {message} is stored wrongly")
            yield from _walk(value, rule, depth + 1)
        elif kind not in rule:
            raise NotOnnxError(f"field {number} of a {message} is stored wrongly")
        elif (message, number) in _SCATTERED:
            scattered.setdefault(number, []).extend(_numbers(message, number, kind, value))
    for values in scattered.values():
        if len(values) >= _FEWEST:
            yield struct.pack(f"<{len(values)}d", *values)


def _numbers(message: str, number: int, kind: int, value: Any) -> list[float]:
    if kind == _FIXED32:
        return [struct.unpack("<f", value)[0]]
    if kind == _FIXED64:
        return [struct.unpack("<d", value)[0]]
    if kind == _VARINT:
        return [float(_signed(value))]
    if (message, number) in {("attribute", 7), ("tensor", 4), ("tensor", 10)}:
        return []  # packed: they lie side by side already
    numbers, place = [], 0
    while place < len(value):
        one, place = _varint(value, place)
        numbers.append(float(_signed(one)))
    return numbers


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fields(view: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yield each field's number, kind of storage and content."""
    place, end = 0, len(view)
    while place < end:
        tag, place = _varint(view, place)
        number, kind = tag >> 3, tag & 7
        value: Any
        if kind == _VARINT:
            value, place = _varint(view, place)
        elif kind in (_FIXED32, _FIXED64, _BYTES):
            size = {_FIXED32: 4, _FIXED64: 8}.get(kind, 0)
            if kind == _BYTES:
                size, place = _varint(view, place)
            value, place = view[place : place + size], place + size
        else:
            raise NotOnnxError("it is no protocol buffer")
        if place > end or not number:
            raise NotOnnxError("it is cut off, or no protocol buffer")
        yield number, kind, value


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    number = shift = 0
    while place < len(view) and shift < 64:
        one = view[place]
        number |= (one & 0x7F) << shift
        place += 1
        if one < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, place
        shift += 7
    raise NotOnnxError("it is cut off, or no protocol buffer")
