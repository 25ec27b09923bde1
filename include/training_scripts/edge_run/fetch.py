"""Gets the granted blobs, and proves that each is the blob that was verified.

Plain :mod:`http.client`: no proxy, no redirect, no other authority than the grant's. An error never repeats a URL, because
the URL is the credential.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import ssl
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edge_run.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_run.grant import Grant, GrantedBlob

CHUNK_BYTES = 1024 * 1024
CONNECTIONS = 6
TIMEOUT_SECONDS = 30.0
TRIES = 4
_PASSING = {408, 429, 500, 502, 503, 504}
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG}

_MEANING = {
    400: "the store refuses the request; if it names x-ms-version, set the connection's api_version to one the store knows",
    403: "the store refuses the grant: it expired, was revoked, or the VM's clock is wrong. Grant data access again",
    404: "it was deleted after it was verified. Clear the DAG run from verify_blob_data on",
    412: "it was changed after it was verified. Clear the DAG run from verify_blob_data on",
}


class _PassingError(Exception):
    """Something that another try may cure."""


def fetch_blobs(grant: Grant, folder: Path) -> dict[str, Path]:
    """Fetch all blobs side by side into a folder, below their own names.

    :param grant: what may be read.
    :param folder: an existing, private folder.
    :returns: for each blob's name where it is.
    :raises DataError: naming the blob that cannot be fetched or is not the verified one.
    """
    context = _tls(grant.ca_pem)
    stop = threading.Event()
    with ThreadPoolExecutor(min(CONNECTIONS, len(grant.blobs)), "fetch") as pool:
        paths = {blob.name: folder / blob.name for blob in grant.blobs}
        futures = [pool.submit(_fetch, blob, paths[blob.name], grant, context, stop) for blob in grant.blobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        for future in futures:
            if not future.cancelled():
                future.result()
    return paths


def _tls(ca_pem: str) -> ssl.SSLContext:
    """Trust the grant's own authority only, or the system's when the grant has none."""
    try:
        return ssl.create_default_context(cadata=ca_pem or None)
    except ssl.SSLError as error:
        raise DataError("The private CA in the grant is not a PEM certificate: check the blob connection.") from error


def _fetch(blob: GrantedBlob, path: Path, grant: Grant, context: ssl.SSLContext, stop: threading.Event) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for attempt in range(1, TRIES + 1):
        try:
            _fetch_once(blob, path, grant, context, stop.is_set)
        except _PassingError as error:
            if attempt == TRIES:
                raise DataError(f"Blob {blob.name} cannot be fetched after {TRIES} tries: {error}.") from error
            if stop.wait(0.25 * 2**attempt):
                return
        else:
            return


def _fetch_once(
    blob: GrantedBlob, path: Path, grant: Grant, context: ssl.SSLContext, stopped: Callable[[], bool]
) -> None:
    url = urlsplit(blob.url)
    connection = http.client.HTTPSConnection(
        url.hostname or "", url.port or 443, timeout=TIMEOUT_SECONDS, context=context
    )
    headers = {"x-ms-version": grant.api_version, "If-Match": blob.etag, "Accept-Encoding": "identity"}
    try:
        connection.request("GET", f"{url.path}?{url.query}", headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            _refuse(blob, response)
        _save(blob, path, response, stopped)
    except ssl.SSLCertVerificationError as error:
        raise DataError(
            f"Blob {blob.name}: the store's certificate is not trusted ({error.verify_message}). Set the blob connection's "
            "ca_certificate to the authority that signed it."
        ) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise DataError(
                f"The VM's disk does not take blob {blob.name} ({error.strerror}): free some space."
            ) from error
        raise _PassingError(
            f"the connection to {url.hostname}:{url.port or 443} failed ({type(error).__name__})"
        ) from error
    finally:
        connection.close()


def _refuse(blob: GrantedBlob, response: http.client.HTTPResponse) -> None:
    code = response.headers.get("x-ms-error-code", "no code")
    if response.status in _PASSING:
        raise _PassingError(f"the store answers {response.status} ({code})")
    meaning = _MEANING.get(response.status, "the store gave an answer that a blob store does not give")
    raise DataError(f"Blob {blob.name} cannot be fetched: {meaning}. (status {response.status}, {code})")


def _save(blob: GrantedBlob, path: Path, response: http.client.HTTPResponse, stopped: Callable[[], bool]) -> None:
    """Write the body to disk, and refuse it when it is not exactly what was verified."""
    algorithm, _, expected = blob.content_hash.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    size = 0
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        while not stopped() and (chunk := response.read(CHUNK_BYTES)):
            size += len(chunk)
            if size > blob.size:
                break
            digest.update(chunk)
            file.write(chunk)
    if stopped():
        return
    if size < blob.size and response.length:
        raise _PassingError("the connection broke")
    if size != blob.size or digest.hexdigest() != expected:
        raise DataError(
            f"Blob {blob.name} is not what was verified (size or {algorithm} differs), though its ETag is the same: the store "
            "or the way to it is damaged, or somebody changed the data. Clear the DAG run from verify_blob_data on."
        )
