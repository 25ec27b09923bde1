"""Sending a blob while the connection, the registry or the file misbehaves."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ImageError, ServiceError
from edge_training.images.errors import INSUFFICIENT_STORAGE
from edge_training.images.media_types import Descriptor, digest_of
from tests.integration.images.fault_proxy import Fault, FaultProxy
from tests.integration.images.kept_uploads import KeptUploads
from tests.integration.images.support import blob, run_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_training.images.registry import RegistryClient

CHUNK = 500_000
SIZE = 3 * CHUNK + 1000
REPOSITORY = "upload/blobs"
UPLOADS = "blobs/uploads/"
# What Debian's registry answers on a full disk, once while it writes data and once while it begins an upload.
FULL = [
    (
        500,
        b'{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":"write /var/x: no space left on device"}]}',
    ),
    (500, b'{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"Enclosed":{"Op":"write","Err":28}}}]}'),
    (507, b""),
]


@pytest.fixture
def chunked(proxy: FaultProxy) -> Iterator[RegistryClient]:
    with proxy.registry.client(chunk_bytes=CHUNK) as client:
        yield client


@pytest.fixture
def resuming(proxy: FaultProxy, chunked: RegistryClient) -> RegistryClient:
    """Return a client of a registry that keeps what arrived."""
    proxy.uploads = KeptUploads()
    return chunked


def send(client: RegistryClient, data: bytes, descriptor: Descriptor) -> None:
    client.put_blob(REPOSITORY, descriptor, lambda: io.BytesIO(data))


def assert_arrived(client: RegistryClient, data: bytes, descriptor: Descriptor) -> None:
    assert b"".join(client.read_blob(REPOSITORY, descriptor)) == data


def test_a_large_blob_is_sent_in_chunks(proxy: FaultProxy, chunked: RegistryClient) -> None:
    data, descriptor = blob(SIZE)
    send(chunked, data, descriptor)
    assert_arrived(chunked, data, descriptor)
    assert (proxy.count("PATCH", UPLOADS), proxy.count("PUT", UPLOADS)) == (3, 1)
    assert proxy.sent == SIZE


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_every_size_arrives_whole(chunked: RegistryClient, size: int) -> None:
    data, descriptor = blob(size)
    send(chunked, data, descriptor)
    assert_arrived(chunked, data, descriptor)


@pytest.mark.parametrize(("method", "after"), [("PATCH", 0), ("PATCH", 2), ("PUT", 0)])
def test_a_connection_that_breaks_in_the_middle_goes_on_from_there(
    proxy: FaultProxy, resuming: RegistryClient, method: str, after: int
) -> None:
    data, descriptor = blob(SIZE)
    proxy.faults.append(Fault(method, UPLOADS, cut=True, after=after))
    send(resuming, data, descriptor)
    assert_arrived(resuming, data, descriptor)
    assert proxy.count("POST", UPLOADS) == 1
    assert proxy.sent == SIZE


@pytest.mark.parametrize(("method", "after"), [("PATCH", 0), ("PATCH", 2), ("PUT", 0)])
def test_a_registry_that_gives_up_what_broke_off_gets_all_of_it_again(
    proxy: FaultProxy, chunked: RegistryClient, method: str, after: int
) -> None:
    data, descriptor = blob(SIZE)
    proxy.faults.append(Fault(method, UPLOADS, cut=True, after=after))
    send(chunked, data, descriptor)
    assert_arrived(chunked, data, descriptor)
    assert proxy.count("POST", UPLOADS) == 2


def test_a_connection_that_breaks_before_anything_arrived_begins_again(
    proxy: FaultProxy, chunked: RegistryClient
) -> None:
    data, descriptor = blob(SIZE)
    proxy.faults.append(Fault("PATCH", UPLOADS, reset=True))
    send(chunked, data, descriptor)
    assert_arrived(chunked, data, descriptor)
    assert proxy.count("POST", UPLOADS) == 2


def test_a_connection_that_breaks_again_and_again_is_outlasted_as_long_as_there_is_progress(
    proxy: FaultProxy, resuming: RegistryClient
) -> None:
    data, descriptor = blob(6 * CHUNK)
    proxy.faults.append(Fault("PATCH", UPLOADS, cut=True, times=5))
    send(resuming, data, descriptor)
    assert_arrived(resuming, data, descriptor)
    assert proxy.count("POST", UPLOADS) == 1
    assert proxy.faults[0].times == 0


def test_without_progress_it_is_given_up_as_retryable(proxy: FaultProxy, chunked: RegistryClient) -> None:
    proxy.faults.append(Fault("PATCH", UPLOADS, reset=True, times=99))
    with pytest.raises(ServiceError, match="did not answer while sending a part") as caught:
        send(chunked, *blob(SIZE))
    assert caught.value.retryable
    assert proxy.count("PATCH", UPLOADS) == 3


def test_a_chunk_whose_answer_was_lost_is_not_sent_again(proxy: FaultProxy, resuming: RegistryClient) -> None:
    data, descriptor = blob(SIZE)
    proxy.faults.append(Fault("PATCH", UPLOADS, lost=True, after=1))
    send(resuming, data, descriptor)
    assert_arrived(resuming, data, descriptor)
    assert proxy.sent == SIZE


def test_a_blob_whose_last_answer_was_lost_is_found_and_not_sent_again(
    proxy: FaultProxy, chunked: RegistryClient
) -> None:
    data, descriptor = blob(SIZE)
    proxy.faults.append(Fault("PUT", UPLOADS, lost=True))
    send(chunked, data, descriptor)
    assert_arrived(chunked, data, descriptor)
    assert proxy.sent == SIZE


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_a_registry_that_is_busy_in_the_middle_is_waited_for(
    proxy: FaultProxy, chunked: RegistryClient, method: str, status: int
) -> None:
    data, descriptor = blob(SIZE)
    proxy.faults.append(Fault(method, UPLOADS, status=status, headers={"Retry-After": "0"}))
    send(chunked, data, descriptor)
    assert_arrived(chunked, data, descriptor)
    assert proxy.sent == SIZE


@pytest.mark.parametrize("status", [404, 416])
def test_an_upload_that_the_registry_forgot_begins_again(
    proxy: FaultProxy, chunked: RegistryClient, status: int
) -> None:
    data, descriptor = blob(SIZE)
    proxy.faults.append(Fault("PATCH", UPLOADS, status=status, after=1))
    send(chunked, data, descriptor)
    assert_arrived(chunked, data, descriptor)
    assert proxy.count("POST", UPLOADS) == 2


def test_a_blob_that_was_damaged_on_its_way_is_sent_again(proxy: FaultProxy, chunked: RegistryClient) -> None:
    data, descriptor = blob(SIZE)
    proxy.faults.append(Fault("PATCH", UPLOADS, garble=True))
    send(chunked, data, descriptor)
    assert_arrived(chunked, data, descriptor)


def test_a_file_that_changed_after_it_was_hashed_is_refused(proxy: FaultProxy, chunked: RegistryClient) -> None:
    data, descriptor = blob(SIZE)
    with pytest.raises(ImageError, match="was changed after it was made"):
        send(chunked, b"x" + data[1:], descriptor)
    assert not chunked.has_blob(REPOSITORY, descriptor.digest)
    assert proxy.count("POST", UPLOADS) == 1


def test_a_file_that_became_shorter_is_not_waited_for(chunked: RegistryClient) -> None:
    data, descriptor = blob(SIZE)
    with pytest.raises(ImageError, match="became shorter"):
        send(chunked, data[:CHUNK], descriptor)


def test_a_registry_that_stores_another_digest_is_noticed(proxy: FaultProxy, chunked: RegistryClient) -> None:
    proxy.faults.append(Fault("PUT", UPLOADS, headers={"Docker-Content-Digest": digest_of(b"other")}))
    with pytest.raises(ImageError, match="something between here and there"):
        send(chunked, *blob())


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
@pytest.mark.parametrize(("status", "body"), FULL, ids=["data", "begin", "507"])
def test_a_registry_without_room_is_not_tried_again_and_says_what_to_do(
    proxy: FaultProxy, chunked: RegistryClient, method: str, status: int, body: bytes
) -> None:
    proxy.faults.append(Fault(method, UPLOADS, status=status, body=body, times=99))
    with pytest.raises(ServiceError, match=r"has no room left .* Delete old images") as caught:
        send(chunked, *blob(SIZE))
    assert (caught.value.code, caught.value.retryable) == (INSUFFICIENT_STORAGE, False)
    assert proxy.count(method, UPLOADS) == 1


def test_a_password_that_ends_in_the_middle_is_not_tried_again(proxy: FaultProxy, chunked: RegistryClient) -> None:
    proxy.faults.append(Fault("PATCH", UPLOADS, status=401, after=1, times=99))
    with pytest.raises(ServiceError, match="connection 'test'") as caught:
        send(chunked, *blob(SIZE))
    assert (caught.value.status, caught.value.retryable) == (401, False)
    assert proxy.count("PATCH", UPLOADS) == 2


def test_an_upload_outlives_the_registry_that_it_began_with(tmp_path: Path) -> None:
    data, descriptor = blob(SIZE)
    with run_registry(tmp_path) as first, first.client(chunk_bytes=CHUNK) as client:
        send(client, data, descriptor)
    with run_registry(tmp_path) as second, second.client() as client:
        assert_arrived(client, data, descriptor)
