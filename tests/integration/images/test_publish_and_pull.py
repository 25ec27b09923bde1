from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ConfigurationError, ImageError, ServiceError
from edge_training.images.base import resolve_base
from edge_training.images.compose import ComposedImage, RunSettings, compose
from edge_training.images.layers import LayerFile, write_layer
from edge_training.images.media_types import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, canonical_json
from edge_training.images.publish import RegistryPublisher
from edge_training.images.pull import pull
from tests.integration.images.fault_proxy import Fault, run_fault_proxy
from tests.integration.images.support import Registry, blob_files, push_base, push_raw, tar_gzip

if TYPE_CHECKING:
    from pathlib import Path

    from edge_training.images.registry import RegistryClient

SETTINGS = RunSettings(("python3",), {"A": "b"}, ("/opt/app/bin",), "65532:65532", "/opt/app", 5001, {"l": "1"})


def build(client: RegistryClient, folder: Path, base: str, model: bytes) -> ComposedImage:
    """Compose an image of a base and one layer."""
    folder.mkdir(parents=True, exist_ok=True)
    file = LayerFile.of_bytes("opt/app/model", model)
    layer = write_layer([file], folder / "layer.tar.gz", root="opt/app", created_by="model")
    return compose(resolve_base(client, base, None), (layer,), SETTINGS)


def test_a_changed_model_moves_one_layer(client: RegistryClient, tmp_path: Path) -> None:
    push_base(client, "one/base:1", {"bin/python3": b"x"})
    publisher = RegistryPublisher(client, "one/model")
    first = publisher.publish(build(client, tmp_path / "1", "one/base:1", b"first"), "v1")
    second = publisher.publish(build(client, tmp_path / "2", "one/base:1", b"second"), "v2")
    assert [transfer.way for transfer in first.transfers] == ["mounted", "sent", "sent"]
    assert [transfer.way for transfer in second.transfers] == ["present", "sent", "sent"]
    assert client.find_digest("one/model", "v1") == first.reference.digest
    assert client.find_digest("one/model", "v2") == second.reference.digest != first.reference.digest


def test_publishing_again_sends_nothing_and_gives_the_same_reference(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    with run_fault_proxy(registry, tmp_path / "proxy") as proxy, proxy.registry.client() as client:
        push_base(client, "again/base:1", {"f": b"x"})
        image = build(client, tmp_path, "again/base:1", b"model")
        publisher = RegistryPublisher(client, "again/model")
        first = publisher.publish(image, "v1")
        proxy.seen.clear()
        again = publisher.publish(image, "v1")
        assert again.reference == first.reference
        assert again.moved_from == ""
        assert {method for method, _ in proxy.seen} == {"HEAD"}


def test_a_tag_that_moves_says_what_it_pointed_at(client: RegistryClient, tmp_path: Path) -> None:
    push_base(client, "moved/base:1", {"f": b"x"})
    publisher = RegistryPublisher(client, "moved/model")
    first = publisher.publish(build(client, tmp_path, "moved/base:1", b"first"), "v1")
    second = publisher.publish(build(client, tmp_path, "moved/base:1", b"second"), "v1")
    assert second.moved_from == first.reference.digest
    assert client.find_manifest("moved/model", first.reference.digest) is not None


def test_no_tag_points_at_a_half_pushed_image(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    with run_fault_proxy(registry, tmp_path / "proxy") as proxy, proxy.registry.client() as client:
        push_base(client, "half/base:1", {"f": b"x"})
        image = build(client, tmp_path, "half/base:1", b"model")
        publisher = RegistryPublisher(client, "half/model")
        for path in ("blobs/uploads/.*digest", "manifests/sha256"):
            proxy.faults[:] = [Fault("PUT", path, status=500, times=99)]
            with pytest.raises(ServiceError) as caught:
                publisher.publish(image, "v1")
            assert caught.value.retryable
            assert client.find_digest("half/model", "v1") == ""
        proxy.faults.clear()
        assert publisher.publish(image, "v1").reference.digest == client.find_digest("half/model", "v1")


def test_a_tag_that_the_registry_keeps_as_it_is_is_not_tried_again(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    with run_fault_proxy(registry, tmp_path / "proxy") as proxy, proxy.registry.client() as client:
        push_base(client, "kept/base:1", {"f": b"x"})
        image = build(client, tmp_path, "kept/base:1", b"model")
        proxy.faults.append(Fault("PUT", "manifests/v1", status=409, times=99))
        with pytest.raises(ServiceError, match="HTTP 409") as caught:
            RegistryPublisher(client, "kept/model").publish(image, "v1")
        assert not caught.value.retryable


def test_a_registry_that_does_not_mount_gets_the_base_through_this_machine(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    location = {"Location": "/v2/copied/model/blobs/uploads/none"}
    with run_fault_proxy(registry, tmp_path / "proxy") as proxy, proxy.registry.client() as client:
        push_base(client, "copied/base:1", {"f": b"x" * 100_000})
        image = build(client, tmp_path, "copied/base:1", b"model")
        proxy.faults.append(Fault("POST", "mount=", status=202, headers=location))
        published = RegistryPublisher(client, "copied/model").publish(image, "v1")
        assert published.transfers[0].way == "copied"
        assert pull(client, "copied/model", published.reference.digest, tmp_path / "pulled").root.joinpath("f").exists()


def test_a_tag_or_repository_that_is_none_is_refused_before_anything_is_sent(
    client: RegistryClient, tmp_path: Path
) -> None:
    push_base(client, "names/base:1", {"f": b"x"})
    image = build(client, tmp_path, "names/base:1", b"model")
    with pytest.raises(ConfigurationError, match="no valid tag"):
        RegistryPublisher(client, "names/model").publish(image, "v 1")
    with pytest.raises(ConfigurationError, match="does not name a repository"):
        RegistryPublisher(client, "Names/Model")


def test_a_pulled_image_has_the_files_and_settings_of_all_its_layers(client: RegistryClient, tmp_path: Path) -> None:
    push_base(client, "pulled/base:1", {"usr/bin/python3": b"base", "etc/os-release": b"debian"})
    image = build(client, tmp_path, "pulled/base:1", b"model")
    reference = RegistryPublisher(client, "pulled/model").publish(image, "v1").reference
    pulled = pull(client, reference.repository, reference.digest, tmp_path / "pulled")
    files = {
        path.relative_to(pulled.root).as_posix(): path.read_bytes() for path in pulled.root.rglob("*") if path.is_file()
    }
    assert files == {"usr/bin/python3": b"base", "etc/os-release": b"debian", "opt/app/model": b"model"}
    assert pulled.run["Env"] == ["PATH=/opt/app/bin:/usr/bin:/bin", "LANG=C.UTF-8", "A=b"]
    assert pulled.run["Entrypoint"] == ["python3"]
    assert pulled.run["Labels"] == {"of": "base", "l": "1"}
    assert "Cmd" not in pulled.run
    assert pulled.reference == reference.pinned
    assert [path.name for path in (tmp_path / "pulled").iterdir()] == ["root"]


def test_a_layer_that_was_damaged_in_the_registry_is_not_unpacked(
    client: RegistryClient, registry: Registry, tmp_path: Path
) -> None:
    push_base(client, "rotten/base:1", {"f": b"x"})
    image = build(client, tmp_path, "rotten/base:1", b"model of the rotten image")
    reference = RegistryPublisher(client, "rotten/model").publish(image, "v1").reference
    (stored,) = blob_files(registry, image.layers[0].descriptor.digest)
    data = stored.read_bytes()
    stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ImageError, match="came damaged"):
        pull(client, reference.repository, reference.digest, tmp_path / "pulled")
    assert not list((tmp_path / "pulled").rglob("model"))


def test_an_image_that_was_deleted_says_so(client: RegistryClient, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is not in the registry"):
        pull(client, "pulled/model", "sha256:" + "0" * 64, tmp_path)


def test_a_layer_that_writes_outside_of_the_image_is_refused(client: RegistryClient, tmp_path: Path) -> None:
    layer, diff_id = tar_gzip({"../escaped": b"x"})
    config = canonical_json({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [diff_id]}})
    digest = push_raw(client, "evil/image", "1", (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP), config, layer)
    with pytest.raises(ImageError, match="leads out of the image"):
        pull(client, "evil/image", digest, tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("escaped"))


def test_the_manifest_tells_where_the_image_comes_from(client: RegistryClient, tmp_path: Path) -> None:
    digest = push_base(client, "told/base:1", {"f": b"x"})
    image = build(client, tmp_path, "told/base:1", b"model")
    annotations = json.loads(image.manifest)["annotations"]
    assert annotations["org.opencontainers.image.base.digest"] == digest
    assert annotations["org.opencontainers.image.base.name"] == f"{client.registry}/told/base@{digest}"
    assert "docker_version" not in json.loads(image.config)
