from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ConfigurationError, ImageError, ServiceError
from edge_training.images.media_types import OCI_MANIFEST, Descriptor, canonical_json, digest_of
from edge_training.images.registry import RegistryClient
from tests.integration.images.fault_proxy import Fault, FaultProxy
from tests.integration.images.support import HASTE, PASSWORD, USER, Registry, blob, free_port, push_base, run_registry

if TYPE_CHECKING:
    from pathlib import Path


def test_a_blob_that_was_sent_is_there_and_comes_back_unchanged(client: RegistryClient, tmp_path: Path) -> None:
    data, descriptor = blob()
    assert not client.has_blob("a/b", descriptor.digest)
    client.put_blob("a/b", descriptor, lambda: io.BytesIO(data))
    assert client.has_blob("a/b", descriptor.digest)
    client.fetch_blob("a/b", descriptor, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["blob"]


def test_an_empty_blob_can_be_sent_and_fetched(client: RegistryClient, tmp_path: Path) -> None:
    descriptor = Descriptor.of_bytes("", b"")
    client.put_blob("a/empty", descriptor, lambda: io.BytesIO(b""))
    client.fetch_blob("a/empty", descriptor, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == b""


def test_a_file_that_changed_after_it_was_hashed_is_refused_before_anything_names_it(client: RegistryClient) -> None:
    data, descriptor = blob()
    with pytest.raises(ImageError, match="was changed after it was made"):
        client.put_blob("a/b", descriptor, lambda: io.BytesIO(b"x" + data[1:]))
    assert not client.has_blob("a/b", descriptor.digest)


def test_a_refused_password_names_the_registry_and_the_connection_and_is_not_tried_again(proxy: FaultProxy) -> None:
    with (
        proxy.registry.client(password="guessed") as client,
        pytest.raises(ServiceError, match="connection 'test'") as caught,
    ):
        client.find_manifest("a/b", "latest")
    assert caught.value.status == 401
    assert not caught.value.retryable
    assert proxy.registry.address in str(caught.value)
    assert "guessed" not in str(caught.value)
    assert proxy.count("GET", "manifests") == 1


def test_a_connection_without_a_login_says_that_one_is_wanted(registry: Registry) -> None:
    with registry.client(user="", password="") as client, pytest.raises(ServiceError, match="Fill in login") as caught:
        client.find_manifest("a/b", "latest")
    assert not caught.value.retryable


def test_no_body_is_sent_before_the_client_is_logged_in(proxy: FaultProxy) -> None:
    data, descriptor = blob()
    with proxy.registry.client() as client:
        client.put_blob("a/login", descriptor, lambda: io.BytesIO(data))
    assert proxy.seen[0] == ("GET", "/v2/")
    assert proxy.count("PUT", "blobs/uploads") == 1


def test_a_certificate_of_an_unknown_ca_names_the_setting(registry: Registry, tmp_path: Path) -> None:
    with (
        RegistryClient(registry.address, user=USER, password=PASSWORD, patience=HASTE) as client,
        pytest.raises(ServiceError, match="'ca_certificate'") as caught,
    ):
        client.find_manifest("a/b", "latest")
    assert not caught.value.retryable


def test_a_ca_certificate_that_does_not_exist_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        RegistryClient("127.0.0.1:1", ca_certificate=tmp_path / "none.pem")


def test_settings_of_the_environment_do_not_replace_those_of_the_connection(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with registry.client() as client:
        assert client.find_manifest("a/b", "no-such-tag") is None


def test_a_registry_that_is_down_may_be_tried_again(registry: Registry) -> None:
    down = Registry(f"127.0.0.1:{free_port()}", registry.ca, registry.data)
    with down.client() as client, pytest.raises(ServiceError, match="did not answer") as caught:
        client.has_blob("a/b", digest_of(b""))
    assert caught.value.status is None
    assert caught.value.retryable


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_registry_that_is_busy_is_asked_again(proxy: FaultProxy, status: int) -> None:
    proxy.faults.append(Fault("HEAD", "blobs", status=status, headers={"Retry-After": "0"}, times=2))
    with proxy.registry.client() as client:
        assert not client.has_blob("a/b", digest_of(b"none"))
    assert proxy.count("HEAD", "blobs") == 3


def test_a_registry_that_stays_busy_is_given_up_as_retryable(proxy: FaultProxy) -> None:
    proxy.faults.append(Fault("HEAD", "blobs", status=503, times=99))
    with proxy.registry.client() as client, pytest.raises(ServiceError, match="HTTP 503") as caught:
        client.has_blob("a/b", digest_of(b"none"))
    assert caught.value.retryable
    assert caught.value.status == 503
    assert proxy.count("HEAD", "blobs") == HASTE.tries


def test_a_blob_that_arrives_damaged_is_not_left_behind(proxy: FaultProxy, tmp_path: Path) -> None:
    data, descriptor = blob()
    target = tmp_path / "pulled" / "blob"
    target.parent.mkdir()
    with proxy.registry.client() as client:
        client.put_blob("a/b", descriptor, lambda: io.BytesIO(data))
        proxy.faults.append(Fault("GET", f"blobs/{descriptor.digest}", corrupt=True))
        with pytest.raises(ImageError, match="came damaged"):
            client.fetch_blob("a/b", descriptor, target)
    assert list(target.parent.iterdir()) == []


def test_a_manifest_that_arrives_damaged_is_refused(proxy: FaultProxy) -> None:
    with proxy.registry.client() as client:
        digest = push_base(client, "damaged/manifest:1", {"f": b"x"})
        for wanted in ("1", digest):
            proxy.faults.append(Fault("GET", "manifests", corrupt=True))
            with pytest.raises(ImageError, match="it is damaged"):
                client.find_manifest("damaged/manifest", wanted)


def test_a_registry_that_stores_something_else_is_noticed(proxy: FaultProxy) -> None:
    proxy.faults.append(Fault("PUT", "manifests", headers={"Docker-Content-Digest": digest_of(b"other")}))
    with proxy.registry.client() as client:
        config = canonical_json({})
        described = Descriptor.of_bytes("application/vnd.oci.image.config.v1+json", config)
        client.put_blob("a/stored", described, lambda: io.BytesIO(config))
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described.to_json(), "layers": []}
        with pytest.raises(ImageError, match="something between here and there"):
            client.put_manifest("a/stored", "1", canonical_json(manifest), OCI_MANIFEST)


def test_a_blob_that_an_image_names_but_the_registry_lost_says_what_to_do(client: RegistryClient) -> None:
    with pytest.raises(ImageError, match="push the image anew"):
        list(client.read_blob("a/b", Descriptor.of_bytes("", b"lost")))


@pytest.mark.parametrize("retry_after", ["0", "Sat, 01 Jan 2000 00:00:00 GMT", "soon"])
def test_the_registry_may_say_when_to_ask_again(proxy: FaultProxy, retry_after: str) -> None:
    proxy.faults.append(Fault("HEAD", "blobs", status=429, headers={"Retry-After": retry_after}))
    with proxy.registry.client() as client:
        assert not client.has_blob("a/b", digest_of(b"none"))
    assert proxy.count("HEAD", "blobs") == 2


def test_all_tags_of_a_repository_are_listed_however_the_registry_pages_them(proxy: FaultProxy) -> None:
    with proxy.registry.client() as client:
        assert client.list_tags("tags/none") == []
        tags = [f"v{number:03}" for number in range(103)]
        digest = push_base(client, "tags/many:first", {"f": b"x"})
        manifest = client.find_manifest("tags/many", digest)
        assert manifest is not None
        for tag in tags:
            client.put_manifest("tags/many", tag, manifest.body, manifest.media_type)
        assert sorted(client.list_tags("tags/many")) == ["first", *tags]


def test_an_image_is_deleted_by_its_digest_with_its_tags(client: RegistryClient) -> None:
    digest = push_base(client, "deleted/image:1", {"f": b"x"})
    assert client.delete_manifest("deleted/image", digest)
    assert client.find_digest("deleted/image", "1") == ""
    assert not client.delete_manifest("deleted/image", digest)


def test_a_registry_that_keeps_every_image_says_so(proxy: FaultProxy) -> None:
    proxy.faults.append(Fault("DELETE", "manifests", status=405))
    with proxy.registry.client() as client, pytest.raises(ImageError, match="does not allow"):
        client.delete_manifest("a/b", digest_of(b"x"))


def test_what_was_pushed_is_still_there_after_the_registry_was_restarted(tmp_path: Path) -> None:
    with run_registry(tmp_path) as first, first.client() as client:
        digest = push_base(client, "a/b:1", {"f": b"x"})
    with run_registry(tmp_path) as second, second.client() as client:
        assert client.find_digest("a/b", "1") == digest
