"""The registry with a token service, as hosted registries have one."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ServiceError
from edge_training.images.entra import ServicePrincipal
from edge_training.images.media_types import Descriptor
from tests.integration.images.fault_proxy import Fault, run_fault_proxy
from tests.integration.images.support import USER, Registry, blob, push_base, run_registry
from tests.integration.images.token_service import SECRET, TENANT, TokenService, run_token_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TokenService]:
    folder = tmp_path / "tokens"
    folder.mkdir()
    with run_token_service(folder) as running:
        yield running


@pytest.fixture
def token_registry(service: TokenService, tmp_path: Path) -> Iterator[Registry]:
    folder = tmp_path / "registry"
    folder.mkdir()
    auth = {
        "token": {
            "realm": f"https://{service.address}/oauth2/token",
            "service": "registry",
            "issuer": "test",
            "rootcertbundle": str(service.folder / "ca.pem"),
        }
    }
    with run_registry(folder, auth=auth) as running:
        # Registry and token service are signed by two CAs; the client is told both in one file, as an organisation's bundle has them.
        bundle = tmp_path / "bundle.pem"
        bundle.write_bytes(running.ca.read_bytes() + (service.folder / "ca.pem").read_bytes())
        yield Registry(running.address, bundle, running.data)


def test_an_image_is_pushed_with_tokens_that_are_fetched_once_per_scope(
    token_registry: Registry, service: TokenService
) -> None:
    with token_registry.client() as client:
        digest = push_base(client, "base/python:1", {"f": b"x"})
        assert client.find_digest("base/python", "1") == digest
    asked = [scope for scopes in service.scopes for scope in scopes]
    assert asked == ["repository:base/python:pull,push", "repository:base/python:pull"]


def test_a_mount_asks_for_both_repositories_in_one_token(token_registry: Registry, service: TokenService) -> None:
    with token_registry.client() as client:
        client.put_blob("base/python", Descriptor.of_bytes("", b"layer"), lambda: io.BytesIO(b"layer"))
        assert client.mount_blob("models/a", Descriptor.of_bytes("", b"layer").digest, "base/python")
    assert service.scopes[-1] == ["repository:models/a:pull,push", "repository:base/python:pull"]


def test_a_token_that_ended_early_is_fetched_again(token_registry: Registry, service: TokenService) -> None:
    service.lifetimes = [(300, -90), (300, -90)]
    with token_registry.client() as client:
        with pytest.raises(ServiceError) as caught:
            client.find_manifest("a/b", "1")
        assert caught.value.status == 401
        assert client.find_manifest("a/b", "1") is None
    assert len(service.scopes) == 3


def test_a_password_that_the_token_service_refuses_names_the_connection(token_registry: Registry) -> None:
    with token_registry.client(password="guessed") as client, pytest.raises(ServiceError, match="'test'") as caught:
        client.find_manifest("a/b", "1")
    assert (caught.value.status, caught.value.retryable) == (401, False)


def principal(service: TokenService, secret: str = SECRET) -> ServicePrincipal:
    return ServicePrincipal(TENANT, USER, secret, f"https://{service.address}")


def test_a_service_principal_exchanges_its_token_of_entra_id_once(
    token_registry: Registry, service: TokenService
) -> None:
    with token_registry.client(user="", password="", principal=principal(service)) as client:
        digest = push_base(client, "base/python:1", {"f": b"x"})
        assert client.find_digest("base/python", "1") == digest
        assert client.mount_blob("models/a", Descriptor.of_bytes("", b"none").digest, "base/python") is False
    assert service.exchanges == 1
    assert [scopes[0] for scopes in service.scopes] == [
        "repository:base/python:pull,push",
        "repository:base/python:pull",
        "repository:models/a:pull,push",
    ]


@pytest.mark.parametrize("way", ["password", "principal"])
def test_a_token_that_ends_in_the_middle_of_a_push_is_renewed_and_the_push_goes_on(
    token_registry: Registry, service: TokenService, tmp_path: Path, way: str
) -> None:
    data, descriptor = blob(1_000_000)
    with run_fault_proxy(token_registry, tmp_path) as proxy:
        bundle = tmp_path / "all.pem"
        bundle.write_bytes(proxy.registry.ca.read_bytes() + token_registry.ca.read_bytes())
        registry = Registry(proxy.registry.address, bundle, token_registry.data)
        who: dict[str, Any] = {"user": "", "password": "", "principal": principal(service)}
        proxy.faults.append(Fault("PATCH", "blobs/uploads", status=401, after=1))
        with registry.client(**(who if way == "principal" else {}), chunk_bytes=300_000) as client:
            client.put_blob("a/b", descriptor, lambda: io.BytesIO(data))
            assert b"".join(client.read_blob("a/b", descriptor)) == data
    assert service.scopes == [["repository:a/b:pull,push"], ["repository:a/b:pull,push"], ["repository:a/b:pull"]]
    assert (proxy.count("POST", "blobs/uploads"), proxy.sent) == (1, len(data))


def test_a_refresh_token_that_has_ended_is_exchanged_anew(token_registry: Registry, service: TokenService) -> None:
    with token_registry.client(user="", password="", principal=principal(service)) as client:
        assert client.find_manifest("a/b", "1") is None
        service.refresh_tokens.clear()
        assert client.find_manifest("c/d", "1") is None
    assert service.exchanges == 2


def test_a_secret_that_entra_id_refuses_is_not_tried_again_and_not_told(
    token_registry: Registry, service: TokenService
) -> None:
    guessed = principal(service, "guessed secret")
    with (
        token_registry.client(user="", password="", principal=guessed) as client,
        pytest.raises(ServiceError, match="invalid_client") as caught,
    ):
        client.find_manifest("a/b", "1")
    assert not caught.value.retryable
    assert "connection 'test'" in str(caught.value)
    assert "guessed" not in str(caught.value) + repr(guessed)


def test_a_principal_that_the_registry_does_not_know_names_it(token_registry: Registry, service: TokenService) -> None:
    service.knows_principal = False
    with (
        token_registry.client(user="", password="", principal=principal(service)) as client,
        pytest.raises(ServiceError, match=f"user '{USER}', while exchanging") as caught,
    ):
        client.find_manifest("a/b", "1")
    assert (caught.value.status, caught.value.retryable) == (401, False)


@pytest.mark.parametrize("path", ["oauth2/token", "oauth2/exchange", f"{TENANT}/oauth2/v2.0/token"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_token_service_that_is_busy_is_asked_again(
    token_registry: Registry, service: TokenService, path: str, status: int
) -> None:
    service.busy = {f"/{path}": status}
    with token_registry.client(user="", password="", principal=principal(service)) as client:
        assert client.find_manifest("a/b", "1") is None
    assert service.busy == {}


def test_a_token_service_that_stays_busy_is_given_up_as_retryable(
    token_registry: Registry, service: TokenService
) -> None:
    service.stays_busy = True
    with token_registry.client() as client, pytest.raises(ServiceError, match="HTTP 503") as caught:
        client.find_manifest("a/b", "1")
    assert caught.value.retryable
