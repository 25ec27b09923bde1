"""HTTP messages as far as a front must understand them: where one ends and the next begins."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

LARGEST_HEAD = 64 << 10
LARGEST_BODY = 64 << 20
_CHUNK = 1 << 16
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "upgrade", "te", "trailer", "expect"})
_NO_BODY = frozenset({204, 304})


class MessageError(Exception):
    """What came is not an HTTP message that can be passed on.

    :param status: what to answer.
    :param reason: why, for whoever sent it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class NotListeningError(Exception):
    """The program did not get the request, because it does not listen at this moment."""


@dataclass(frozen=True)
class Head:
    """The first line and the headers of a message.

    :param first: the first line.
    :param headers: name and value, in order.
    """

    first: str
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """Return a header's value in lower case, or ``""``.

        :param name: its name in lower case.
        """
        return ", ".join(value for key, value in self.headers if key.lower() == name).lower()

    def encode(self, *more: tuple[str, str], without: frozenset[str] = frozenset()) -> bytes:
        """Return the head as it is sent on, without what only concerns one connection.

        :param more: headers that are added.
        :param without: names, in lower case, of headers that are left out.
        """
        left_out = _HOP_BY_HOP | without
        kept = [(name, value) for name, value in self.headers if name.lower() not in left_out]
        lines = [self.first, *(f"{name}: {value}" for name, value in [*kept, *more]), "", ""]
        return "\r\n".join(lines).encode("latin-1")


@dataclass(frozen=True)
class Request:
    """A whole request.

    :param head: its head.
    :param body: its body.
    """

    head: Head
    body: bytes

    @property
    def method(self) -> str:
        """Return the HTTP method."""
        return self.head.first.partition(" ")[0]

    @property
    def keeps_alive(self) -> bool:
        """Tell whether whoever sent it wants to send another one over the same connection."""
        options = self.head.get("connection")
        return "close" not in options and (self.head.first.endswith("HTTP/1.1") or "keep-alive" in options)

    def encode(self) -> bytes:
        """Return the request as it is passed on: its only one on that connection."""
        length = (
            (("Content-Length", str(len(self.body))),) if self.body or self.method in {"POST", "PUT", "PATCH"} else ()
        )
        without = frozenset({"content-length", "transfer-encoding"})
        return self.head.encode(*length, ("Connection", "close"), without=without) + self.body


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Read a head, or return ``None`` when the connection ends before one.

    :param reader: the connection; its limit must be at least ``LARGEST_HEAD``.
    :raises MessageError: when it is not one.
    """
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise MessageError(400, "The request broke off.") from None
        return None
    except asyncio.LimitOverrunError:
        raise MessageError(431, f"The request's headers are longer than {LARGEST_HEAD} bytes.") from None
    first, *lines = raw.decode("latin-1").strip("\r\n").split("\r\n")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise MessageError(400, "The request has a header that is none.")
        headers.append((name, value.strip()))
    return Head(first, tuple(headers))


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Read a request, or return ``None`` when no more comes.

    :param reader: the connection.
    :param writer: its other direction, for whoever waits to be told to go on.
    :raises MessageError: when it is not one, or too large.
    """
    head = await read_head(reader)
    if head is None:
        return None
    if len(head.first.split(" ")) != 3 or not head.first.rpartition(" ")[2].startswith("HTTP/1."):
        raise MessageError(400, "This is not an HTTP/1.1 request.")
    if "100-continue" in head.get("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    coding, length = head.get("transfer-encoding"), head.get("content-length")
    if coding and length:
        # Two programs that believe different ones of these can be made to take one request for two.
        raise MessageError(400, "The request says both how long it is and that it does not know.")
    if coding and coding != "chunked":
        raise MessageError(501, "Only the transfer encoding 'chunked' is understood.")
    return Request(head, await _read_chunks(reader) if coding else await _read_length(reader, length))


async def _read_length(reader: asyncio.StreamReader, length: str) -> bytes:
    if not length:
        return b""
    if not length.isdecimal():
        raise MessageError(400, "The request's Content-Length is not a number.")
    if int(length) > LARGEST_BODY:
        raise MessageError(413, f"The request is larger than {LARGEST_BODY} bytes: send several.")
    try:
        return await reader.readexactly(int(length))
    except asyncio.IncompleteReadError:
        raise MessageError(400, "The request broke off.") from None


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    try:
        while True:
            size = int((await reader.readuntil(b"\r\n")).partition(b";")[0].strip(), 16)
            if size < 0 or len(body) + size > LARGEST_BODY:
                raise MessageError(413, f"The request is larger than {LARGEST_BODY} bytes: send several.")
            if size == 0:
                break
            body += await reader.readexactly(size)
            await reader.readuntil(b"\r\n")
        while (await reader.readuntil(b"\r\n")).strip():
            pass
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        raise MessageError(400, "The request's chunks are damaged.") from None
    return bytes(body)


async def pass_response(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> bool:
    """Pass on the response of a program, and tell whether the client's connection can be used again.

    :param reader: from the program.
    :param writer: to the client.
    :param request: what was asked.
    :raises MessageError: when the program's answer is none; nothing was sent to the client then.
    :raises NotListeningError: when the program got nothing of the request.
    """
    try:
        head = await read_head(reader)
    except ConnectionError as error:
        # Whoever ends with a request in its queue resets the connection: nobody has read it. Who has read it closes.
        raise NotListeningError from error
    if head is None:
        raise MessageError(502, "The model's program ended the connection without an answer.")
    if head.get("x-edge-relay"):
        raise NotListeningError
    parts = head.first.split(" ")
    if len(parts) < 2 or not parts[1].isdecimal():
        raise MessageError(502, "The model's program did not answer with HTTP.")
    empty = request.method == "HEAD" or int(parts[1]) in _NO_BODY
    length, chunked = head.get("content-length"), "chunked" in head.get("transfer-encoding")
    keep = request.keeps_alive and (empty or chunked or length.isdecimal())
    writer.write(head.encode(("Connection", "keep-alive" if keep else "close")))
    if not empty:
        keep &= await _pass_body(reader, writer, None if chunked or not length.isdecimal() else int(length), chunked)
    await writer.drain()
    return keep


async def _pass_body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int | None, chunked: bool
) -> bool:
    """Pass on a body, and tell whether all of it came."""
    left, tail = length, b""
    while left is None or left > 0:
        chunk = await reader.read(_CHUNK if left is None else min(_CHUNK, left))
        if not chunk:
            break
        left = None if left is None else left - len(chunk)
        tail = (tail + chunk)[-5:]
        writer.write(chunk)
        await writer.drain()
    return tail == b"0\r\n\r\n" if chunked else not left
