from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.images.base import resolve_base
from edge_training.images.media_types import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, canonical_json, digest_of
from tests.integration.images.support import push_base, push_index, push_raw, tar_gzip

if TYPE_CHECKING:
    from edge_training.images.registry import RegistryClient

PLATFORM = "linux/amd64"


@pytest.mark.parametrize("docker", [False, True])
def test_a_name_is_pinned_to_the_digest_that_it_stands_for(client: RegistryClient, docker: bool) -> None:
    name = f"pinned/{'docker' if docker else 'oci'}:1"
    digest = push_base(client, name, {"f": b"x"}, docker=docker)
    base = resolve_base(client, name, PLATFORM)
    assert base.reference == f"{client.registry}/{name.removesuffix(':1')}@{digest}"
    assert base.platform == PLATFORM
    assert [layer.media_type for layer in base.layers] == [OCI_LAYER_GZIP]
    assert resolve_base(client, base.reference, None) == base


@pytest.mark.parametrize("docker", [False, True])
def test_of_an_index_the_image_for_the_platform_is_taken(client: RegistryClient, docker: bool) -> None:
    repository = f"index/{'docker' if docker else 'oci'}"
    intel = push_base(client, f"{repository}:amd64", {"f": b"intel"}, docker=docker)
    arm = push_base(client, f"{repository}:arm64", {"f": b"arm"}, docker=docker, architecture="arm64")
    push_index(client, f"{repository}:1", {"linux/arm64": arm, "linux/amd64": intel}, docker=docker)
    assert resolve_base(client, f"{repository}:1", PLATFORM).digest == intel
    assert resolve_base(client, f"{repository}:1", "linux/arm64").digest == arm
    with pytest.raises(ImageError, match="it is for linux/amd64, linux/arm64"):
        resolve_base(client, f"{repository}:1", "linux/s390x")


def test_an_image_for_another_platform_is_refused(client: RegistryClient) -> None:
    push_base(client, "other/platform:1", {"f": b"x"}, architecture="arm64")
    with pytest.raises(ImageError, match="is for linux/arm64, not for linux/amd64"):
        resolve_base(client, "other/platform:1", PLATFORM)


@pytest.mark.parametrize("name", ["base/none:1", "base/none@" + digest_of(b"none")])
def test_a_base_that_is_missing_is_named_with_what_to_do(client: RegistryClient, name: str) -> None:
    with pytest.raises(ImageError, match="Push it there, or correct 'base'") as caught:
        resolve_base(client, name, PLATFORM)
    assert name in str(caught.value)


def test_a_base_in_another_registry_is_a_mistake_in_the_settings(client: RegistryClient) -> None:
    with pytest.raises(ConfigurationError, match="az acr import"):
        resolve_base(client, "docker.io/library/python:3.11", PLATFORM)


def test_a_layer_of_an_unknown_type_is_refused(client: RegistryClient) -> None:
    config = canonical_json({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}})
    push_raw(client, "odd/layer", "1", (OCI_MANIFEST, OCI_CONFIG, "application/x-foreign"), config, tar_gzip({})[0])
    with pytest.raises(ImageError, match="'application/x-foreign', which is not understood"):
        resolve_base(client, "odd/layer:1", PLATFORM)


def test_an_artifact_that_is_not_an_image_is_refused(client: RegistryClient) -> None:
    types = (OCI_MANIFEST, "application/vnd.cncf.helm.config.v1+json", OCI_LAYER_GZIP)
    push_raw(client, "odd/chart", "1", types, b"{}", tar_gzip({})[0])
    with pytest.raises(ImageError, match="is not a container image"):
        resolve_base(client, "odd/chart:1", PLATFORM)
