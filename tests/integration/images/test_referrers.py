"""What is attached to an image, in a registry that lists it and in one that does not."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ImageError, ServiceError
from edge_training.images.media_types import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Descriptor
from edge_training.images.publish import RegistryPublisher
from edge_training.images.referrers import RECEIPT, SBOM, Attachment, fallback_tag, find_referrers
from edge_training.images.transport import Patience
from tests.integration.images.fault_proxy import Fault, FaultProxy
from tests.integration.images.support import push_base
from tests.integration.images.test_publish_and_pull import build

if TYPE_CHECKING:
    from pathlib import Path

    from edge_training.images.compose import ComposedImage
    from edge_training.images.registry import RegistryClient
    from tests.integration.images.support import Registry

BILL = Attachment(SBOM, "bill.json", b'{"bomFormat":"CycloneDX"}')
RESIDENCY = Attachment(RECEIPT, "receipt.json", b'{"receipt":{}}')


def make(client: RegistryClient, folder: Path, repository: str) -> ComposedImage:
    push_base(client, f"{repository}/base:1", {"f": b"x"})
    return build(client, folder / "made", f"{repository}/base:1", b"model")


def test_documents_are_found_by_the_image_s_digest_and_come_back_unchanged(
    client: RegistryClient, tmp_path: Path
) -> None:
    image = make(client, tmp_path, "attached/one")
    RegistryPublisher(client, "attached/one").publish(image, "v1", (BILL, RESIDENCY))
    listed = find_referrers(client, "attached/one", image.digest)
    assert [entry["artifactType"] for entry in listed] == [SBOM, RECEIPT]
    for entry, attachment in zip(listed, (BILL, RESIDENCY), strict=True):
        found = client.find_manifest("attached/one", entry["digest"])
        assert found is not None
        manifest = json.loads(found.body)
        assert manifest["subject"] == image.descriptor.to_json()
        assert manifest["config"]["mediaType"] == OCI_EMPTY
        (layer,) = (Descriptor.from_json(one, of="test") for one in manifest["layers"])
        assert b"".join(client.read_blob("attached/one", layer)) == attachment.data
        assert layer.media_type == attachment.artifact_type


def test_where_the_registry_keeps_no_list_it_is_an_index_under_the_image_s_digest_as_tag(
    client: RegistryClient, tmp_path: Path
) -> None:
    image = make(client, tmp_path, "attached/old")
    RegistryPublisher(client, "attached/old").publish(image, "v1", (BILL,))
    assert client.find_referrers("attached/old", image.digest) is None
    index = client.find_manifest("attached/old", fallback_tag(image.digest))
    assert index is not None
    assert index.media_type == OCI_INDEX
    assert fallback_tag(image.digest).startswith("sha256-")


def test_where_the_registry_lists_them_itself_no_tag_is_made(proxy: FaultProxy, tmp_path: Path) -> None:
    with proxy.registry.client() as client:
        image = make(client, tmp_path, "attached/new")
        kept = json.dumps({"manifests": []}).encode()
        proxy.faults.append(Fault("GET", "/referrers/", status=200, body=kept, times=99))
        said = {"OCI-Subject": image.digest}
        proxy.faults.append(Fault("PUT", "manifests/sha256", headers=said, after=1, times=99))
        RegistryPublisher(client, "attached/new").publish(image, "v1", (BILL, RESIDENCY))
        assert client.list_tags("attached/new") == ["v1"]


def test_a_retry_attaches_nothing_twice_and_a_later_document_joins_the_first(proxy: FaultProxy, tmp_path: Path) -> None:
    with proxy.registry.client() as client:
        image = make(client, tmp_path, "attached/retry")
        publisher = RegistryPublisher(client, "attached/retry")
        publisher.publish(image, "v1", (BILL,))
        proxy.seen.clear()
        publisher.publish(image, "v1", (BILL,))
        assert {method for method, _ in proxy.seen} == {"GET", "HEAD"}
        publisher.publish(image, "v1", (BILL, RESIDENCY))
        listed = find_referrers(client, "attached/retry", image.digest)
        assert [entry["artifactType"] for entry in listed] == [SBOM, RECEIPT]


def test_no_tag_points_at_an_image_whose_documents_are_not_attached(proxy: FaultProxy, tmp_path: Path) -> None:
    with proxy.registry.client() as client:
        image = make(client, tmp_path, "attached/half")
        publisher = RegistryPublisher(client, "attached/half")
        proxy.faults.append(Fault("PUT", "manifests/sha256-", status=500, times=3))
        with pytest.raises(ServiceError):
            publisher.publish(image, "v1", (BILL,))
        assert client.find_digest("attached/half", "v1") == ""
        publisher.publish(image, "v1", (BILL,))
        assert client.find_digest("attached/half", "v1") == image.digest
        assert len(find_referrers(client, "attached/half", image.digest)) == 1


def test_a_second_sender_of_the_same_document_does_not_disturb_the_first(registry: Registry, tmp_path: Path) -> None:
    # The registry empties the file that tells of a manifest before it writes it anew: about one list in sixteen was refused by that.
    patient = Patience(tries=10, first_wait=0.01, longest_wait=0.05)
    with registry.client(patience=patient) as client, registry.client() as other:
        image = make(client, tmp_path, "attached/twice")
        RegistryPublisher(client, "attached/twice").publish(image, "v1", (BILL,))
        listed, body = BILL.listed(image.descriptor)["digest"], BILL.manifest(image.descriptor)
        index = client.find_manifest("attached/twice", fallback_tag(image.digest))
        assert index is not None
        over = threading.Event()

        def send_again() -> int:
            times = 0
            while not over.is_set():
                other.put_manifest("attached/twice", listed, body, OCI_MANIFEST)
                times += 1
            return times

        with ThreadPoolExecutor(1) as pool:
            sender = pool.submit(send_again)
            try:
                for _ in range(100):
                    client.put_manifest("attached/twice", fallback_tag(image.digest), index.body, index.media_type)
            finally:
                over.set()
            assert sender.result() > 10


def test_a_part_that_the_registry_does_not_see_any_more_is_sent_again_by_the_next_try(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    refusal = {"errors": [{"code": "DIGEST_INVALID"}, {"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown"}]}
    with proxy.registry.client() as client:
        first = make(client, tmp_path, "attached/unseen")
        publisher = RegistryPublisher(client, "attached/unseen")
        publisher.publish(first, "v1")
        image = build(client, tmp_path / "2", "attached/unseen/base:1", b"another")
        fault = Fault("PUT", "manifests/v1", status=400, body=json.dumps(refusal).encode(), times=99)
        proxy.faults.append(fault)
        with pytest.raises(ServiceError, match=r"HTTP 400 .*MANIFEST_BLOB_UNKNOWN blob unknown") as caught:
            publisher.publish(image, "v1", (BILL,))
        # It was asked again at once, and the task may ask later; a locked tag it is not.
        assert caught.value.retryable
        assert proxy.count("PUT", "manifests/v1") == 1 + client._transport.patience.tries
        fault.times = 1
        assert publisher.publish(image, "v1", (BILL,)).reference.digest == image.digest
        assert client.find_digest("attached/unseen", "v1") == image.digest


@pytest.mark.parametrize("status", [400, 403, 405, 409, 412])
def test_a_tag_that_is_locked_says_where_it_points_and_where_the_new_image_is(
    proxy: FaultProxy, tmp_path: Path, status: int
) -> None:
    with proxy.registry.client() as client:
        push_base(client, "locked/base:1", {"f": b"x"})
        publisher = RegistryPublisher(client, "locked/model")
        first = publisher.publish(build(client, tmp_path / "1", "locked/base:1", b"first"), "v1").reference.digest
        image = build(client, tmp_path / "2", "locked/base:1", f"{status}".encode())
        proxy.faults.append(Fault("PUT", "manifests/v1", status=status, times=99))
        with pytest.raises(ImageError, match=f"is kept at {first}") as caught:
            publisher.publish(image, "v1")
        assert not caught.value.retryable
        assert image.digest in str(caught.value)
        assert client.find_digest("locked/model", "v1") == first
        assert client.find_manifest("locked/model", image.digest) is not None
        client.delete_manifest("locked/model", first)
