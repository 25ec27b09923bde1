"""The storage protocol, as far as the SDK's uploads and downloads speak it. Bodies are streamed, never held."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from local_site.azure_ml.blobs.state import CHUNK
from local_site.azure_ml.errors import BadRequestError, ConflictError, ServiceError, TooLargeError

if TYPE_CHECKING:
    from pathlib import Path

    from local_site.azure_ml.backend import Backend

LARGEST_BLOB = 4 * 1024**3
LARGEST_BLOCK_LIST = 8 * 1024 * 1024
RANGE = re.compile(r"bytes=(\d+)-(\d*)$")

BLOCK = re.compile(r"<(?:Latest|Uncommitted|Committed)>([A-Za-z0-9+/=]+)</")

Endpoint = Callable[[Request], Awaitable[Response]]


class RangeNotSatisfiableError(ServiceError):
    """The range begins behind the blob's end."""

    status = 416
    code = "InvalidRange"


class ConditionNotMetError(ServiceError):
    """The blob is not the one that the client means."""

    status = 412
    code = "ConditionNotMet"


def streaming_routes(backend: Backend) -> list[StarletteRoute]:
    """Return the routes below ``/blobs/``."""
    return [
        StarletteRoute("/blobs/{key}", _reader(backend), methods=["GET", "HEAD"]),
        StarletteRoute("/blobs/{key}", _writer(backend), methods=["PUT"]),
    ]


def _reader(backend: Backend) -> Endpoint:
    async def read(request: Request) -> Response:
        key = request.path_params["key"]
        path = backend.blobs.path(key)
        backend.blobs.check(key, request.query_params, "r")
        size = backend.blobs.size(key)
        _check_conditions(request, path)
        span = _span(request.headers.get("x-ms-range") or request.headers.get("range", ""), size)
        first, last = span or (0, size - 1)
        headers = _headers(path) | {"Content-Length": str(last - first + 1), "Accept-Ranges": "bytes"}
        status = 206 if span else 200
        if span:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        return StreamingResponse(iterate_in_threadpool(_pieces(path, first, last)), status, headers)

    return read


def _writer(backend: Backend) -> Endpoint:
    async def write(request: Request) -> Response:
        key = request.path_params["key"]
        path = backend.blobs.path(key)
        backend.blobs.check(key, request.query_params, "w")
        component = request.query_params.get("comp", "")
        if component not in {"", "block", "blocklist"}:
            raise BadRequestError(f"comp={component} is not supported.", code="InvalidQueryParameterValue")
        only_new = request.headers.get("if-none-match") == "*"
        if component != "block":
            _check_conditions(request, path)
            if only_new and path.exists():
                raise ConflictError("The specified blob already exists.", code="BlobAlreadyExists")
        draft = backend.blobs.drafts / uuid.uuid4().hex
        blocks = backend.blobs.drafts / f"{key}.blocks"
        try:
            digest = await _receive(request, draft)
            if component == "block":
                await run_in_threadpool(_keep_block, draft, blocks, request.query_params.get("blockid", ""))
            else:
                into = partial(_commit, only_new=only_new)
                await run_in_threadpool(into, backend, key, draft, blocks if component else None)
        finally:
            draft.unlink(missing_ok=True)
        headers = {} if component == "block" else _headers(path)
        return Response(status_code=201, headers=headers | {"Content-MD5": digest})

    return write


async def _receive(request: Request, draft: Path) -> str:
    """Stream a body into a file, and return its MD5 in base64.

    :raises BadRequestError: when the sender's own MD5 says that something else was meant.
    """
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    with draft.open("wb") as stream:
        async for part in _parts(request.stream()):
            size += len(part)
            if size > LARGEST_BLOB:
                raise TooLargeError(f"A blob may have at most {LARGEST_BLOB} bytes.")
            digest.update(part)
            await run_in_threadpool(stream.write, part)
        stream.flush()
        await run_in_threadpool(os.fsync, stream.fileno())
    text = base64.b64encode(digest.digest()).decode()
    if request.headers.get("content-md5", text) != text:
        raise BadRequestError("The MD5 value specified in the request did not match.", code="Md5Mismatch")
    return text


async def _parts(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join small pieces, so that a thread is asked once per megabyte."""
    held = bytearray()
    async for part in stream:
        held += part
        if len(held) >= CHUNK:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _keep_block(draft: Path, blocks: Path, block: str) -> None:
    blocks.mkdir(exist_ok=True, mode=0o700)
    draft.replace(blocks / _block_name(block))


def _check_conditions(request: Request, path: Path) -> None:
    """Check If-Match.

    :raises ConditionNotMetError: when the blob is not the one that the client means.
    """
    wanted = request.headers.get("if-match")
    there = _headers(path)["ETag"] if path.exists() else None
    if wanted is not None and (there is None or wanted not in {"*", there}):
        raise ConditionNotMetError("The condition specified using HTTP conditional header(s) is not met.")


def _commit(backend: Backend, key: str, draft: Path, blocks: Path | None, *, only_new: bool) -> None:
    if blocks is None:
        backend.blobs.put(key, draft, only_new=only_new)
        return
    names = [_block_name(name) for name in _listed(draft)]
    if any(not (blocks / name).is_file() for name in names):
        raise BadRequestError("The specified block list is invalid.", code="InvalidBlockList")
    backend.blobs.write(key, _joined(blocks, names))
    shutil.rmtree(blocks, ignore_errors=True)


def _listed(draft: Path) -> list[str]:
    if draft.stat().st_size > LARGEST_BLOCK_LIST:
        raise TooLargeError("The block list is too long.")
    text = draft.read_text("utf-8", "replace")
    if "<BlockList" not in text:
        raise BadRequestError("The block list is not XML.", code="InvalidXmlDocument")
    return BLOCK.findall(text)


def _joined(folder: Path, names: list[str]) -> Iterator[bytes]:
    for name in names:
        with (folder / name).open("rb") as stream:
            while piece := stream.read(CHUNK):
                yield piece


def _block_name(block: str) -> str:
    return hashlib.sha256(block.encode()).hexdigest()


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    """Return the first and last byte of a Range header, or ``None`` when there is none that could be read.

    :raises RangeNotSatisfiableError: when it begins behind the end.
    """
    match = RANGE.match(wanted.strip())
    if not match:
        return None
    first = int(match.group(1))
    if first >= size:
        raise RangeNotSatisfiableError(
            "The range specified is invalid for the current size of the resource.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return first, min(int(match.group(2) or size - 1), size - 1)


def _pieces(path: Path, first: int, last: int) -> Iterator[bytes]:
    """Read exactly the promised bytes: a log may grow while it is sent."""
    left = last - first + 1
    with path.open("rb") as stream:
        stream.seek(first)
        while left > 0 and (piece := stream.read(min(CHUNK, left))):
            left -= len(piece)
            yield piece


def _headers(path: Path) -> dict[str, str]:
    facts = path.stat()
    return {
        "ETag": f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"',
        "Last-Modified": formatdate(facts.st_mtime, usegmt=True),
        "Content-Type": "application/octet-stream",
        "x-ms-blob-type": "BlockBlob",
        "x-ms-request-id": uuid.uuid4().hex,
        "x-ms-version": "2019-07-07",
    }
