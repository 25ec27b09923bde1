"""Opens what is packed or encoded: archives, compressed streams, base64, hex, and bytes as Python prints them.

Whoever packs decides how large the result is, so all that one item unpacks to shares one budget.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}(?:\s{1,2}[A-Za-z0-9+/_-]{8,})*={0,2}")
_BASE85 = re.compile(rb"[!-uw-~]{20,}")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}[\s:,]{0,2}){12,}")
_PRINTED = re.compile(rb"(?:\\x[0-9a-fA-F]{2}|\\[nrt\\'\"]|[ -\[\]-~]){12,}")
_SPACE = re.compile(rb"[\s:,]+")
_PLAIN_WORDS = re.compile(rb"[a-z_/-]+|[A-Z_]+|[0-9]+")
_CHUNK = 1 << 20
_READ = 64 * 1024
_NONSENSE = 512


class TooMuchError(Exception):
    """Something unpacks to more than the budget."""


class Budget:
    """How much may still be unpacked.

    :param left: bytes.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, size: int) -> None:
        """Count unpacked bytes.

        :raises TooMuchError: when there are more than the budget had.
        """
        self.left -= size
        if self.left < 0:
            raise TooMuchError


def unpack(content: Any, budget: Budget, numpy: Any) -> Iterator[tuple[str, bytes]]:
    """Yield what is packed anywhere in bytes, with the way it was packed.

    :param content: bytes, or anything with the same buffer.
    :param budget: shared by all that belongs together.
    :param numpy: numpy, or None.
    :raises TooMuchError: when it is more than the budget has left.
    """
    view = memoryview(content)
    yield from _archives(content, budget)
    for start in _zlib_places(view, numpy):
        yield from _inflated("zlib", zlib.decompressobj, view[start:], budget)
    for magic, label, make in _STREAMS:
        for start in _places(content, magic):
            yield from _inflated(label, make, view[start:], budget)


_STREAMS: tuple[tuple[bytes, str, Callable[[], Any]], ...] = (
    (b"\x1f\x8b\x08", "gzip", lambda: zlib.decompressobj(wbits=31)),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", "xz", lzma.LZMADecompressor),
    (b"\x5d\x00\x00", "lzma", lzma.LZMADecompressor),
)


def decode(text: bytes, budget: Budget) -> Iterator[tuple[str, bytes]]:
    """Yield what is encoded anywhere in a text, with the way it was encoded.

    :raises TooMuchError: when it is more than the budget has left.
    """
    for label, pattern, make in _CODES:
        for found in pattern.finditer(text):
            for content in make(found.group()):
                if len(content) >= 8:
                    budget.spend(len(content))
                    yield label, content


def _base64(token: bytes) -> Iterator[bytes]:
    if _PLAIN_WORDS.fullmatch(token):
        return
    clean = _SPACE.sub(b"", token).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    # A letter in front, such as a name that was joined on, moves all that follows.
    for skip in range(4):
        part = clean[skip:]
        yield base64.b64decode(part[: len(part) // 4 * 4] + _tail(part))


def _tail(part: bytes) -> bytes:
    rest = part[len(part) // 4 * 4 :]
    return rest + b"=" * (4 - len(rest)) if len(rest) > 1 else b""


def _base85(token: bytes) -> Iterator[bytes]:
    for read in (base64.b85decode, base64.a85decode):
        try:
            yield read(token)
        except ValueError:
            continue


def _hex(token: bytes) -> Iterator[bytes]:
    digits = _SPACE.sub(b"", token)
    yield binascii.unhexlify(digits[: len(digits) // 2 * 2])


def _printed(token: bytes) -> Iterator[bytes]:
    if token.count(b"\\x") > 3:
        yield token.decode("ascii").encode("latin-1").decode("unicode_escape", "replace").encode("latin-1", "replace")


_CODES: tuple[tuple[str, re.Pattern[bytes], Callable[[bytes], Iterator[bytes]]], ...] = (
    ("base64", _BASE64, _base64),
    ("hex", _HEX, _hex),
    ("bytes as printed", _PRINTED, _printed),
    ("base85", _BASE85, _base85),
)


def _places(content: Any, magic: bytes) -> Iterator[int]:
    # Not by find(): that of a map reads beyond its end, which ends the process when the file fills its last page.
    return (found.start() for found in re.finditer(re.escape(magic), content))


def _zlib_places(view: memoryview, numpy: Any) -> list[int]:
    """Return where the two bytes stand that a zlib stream begins with."""
    if numpy is None:
        return [found.start() for found in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", view)]
    octets = numpy.frombuffer(view, dtype=numpy.uint8)
    places: list[int] = []
    for start in range(0, len(octets) - 1, _CHUNK):
        first = start + numpy.flatnonzero(octets[start : min(start + _CHUNK, len(octets) - 1)] == 0x78)
        second = octets[first + 1]
        places += first[(second == 0x01) | (second == 0x5E) | (second == 0x9C) | (second == 0xDA)].tolist()
    return [place for place in places if _may_begin(view[place + 2 : place + 7])]


def _may_begin(block: memoryview) -> bool:
    """Tell whether a deflated block can begin so: of a known kind; one that is stored names its length twice."""
    kind = block[0] >> 1 & 3 if block else 3
    if kind or len(block) < 5:
        return kind != 3
    return block[1] ^ block[3] == 0xFF and block[2] ^ block[4] == 0xFF


def _inflated(label: str, make: Callable[[], Any], packed: memoryview, budget: Budget) -> Iterator[tuple[str, bytes]]:
    """Yield what a stream unpacks to, also when it is cut off; nothing when it is none."""
    machine, parts, size = make(), [], 0
    for start in range(0, len(packed), _READ):
        waiting: Any = packed[start : start + _READ]
        while True:
            try:
                part = machine.decompress(waiting, _CHUNK)
            except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError):
                part, waiting = b"", None
            budget.spend(len(part))
            size += len(part)
            parts.append(part)
            waiting = getattr(machine, "unconsumed_tail", b"") if waiting is not None else None
            if waiting is None or machine.eof or not part or (not waiting and len(part) < _CHUNK):
                break
        if waiting is None or machine.eof:
            break
    # Chance bytes that look like the beginning of a stream unpack to a little nonsense before they fail.
    if machine.eof or size >= _NONSENSE:
        yield label, b"".join(parts)


def _archives(content: Any, budget: Budget) -> Iterator[tuple[str, bytes]]:
    if next(_places(content, b"PK\x03\x04"), None) is not None:
        yield from _zip(content, budget)
    if len(content) > 512 and bytes(content[257:262]) == b"ustar":
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
                for member in archive:
                    if member.isfile() and (file := archive.extractfile(member)):
                        budget.spend(member.size)
                        yield "tar", file.read()
                        yield "tar", member.name.encode()
        except (tarfile.TarError, OSError, ValueError):
            return


def _zip(content: Any, budget: Budget) -> Iterator[tuple[str, bytes]]:
    """Yield a zip file's members; a file that only begins like one is left to the other ways."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                yield "zip", member.filename.encode()
                parts = []
                with archive.open(member) as file:
                    while part := file.read(_CHUNK):
                        budget.spend(len(part))
                        parts.append(part)
                yield "zip", b"".join(parts)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, zlib.error, EOFError):
        return
