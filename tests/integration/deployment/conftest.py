"""Fixtures of the deployment tests: a registry with small images, and a host of the tests' own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.images.base import resolve_base
from edge_training.images.registry import RegistryClient
from tests.airflow_harness import airflow_connection, comms, run_task
from tests.integration.deployment.site import Made
from tests.integration.deployment.support import BASE, Host, push_base, push_image
from tests.integration.images.support import PASSWORD, USER, Registry, run_registry
from tests.integration.training.conftest import SCRIPTS, Pipeline, connections, pipeline, registry_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.airflow_harness import AirflowConnection

__all__ = ["airflow_connection", "comms", "connections", "pipeline", "run_task"]


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as running:
        with running.client() as client:
            push_base(client)
        yield running


@pytest.fixture(scope="session")
def images(registry: Registry) -> tuple[str, str, str]:
    """Give the digests of versions 1, 2 and 3 of the small server."""
    with registry.client() as client:
        one, two, three = (push_image(client, version) for version in (1, 2, 3))
    return one, two, three


@pytest.fixture(scope="session")
def shared_host(registry: Registry) -> Iterator[Host]:
    # Not one of pytest's folders: the paths of socket files must be short.
    with tempfile.TemporaryDirectory(prefix="host-") as home:
        told = {"address": registry.address, "user": USER, "password": PASSWORD, "ca_pem": registry.ca.read_text()}
        host = Host(Path(home), told)
        try:
            yield host
        finally:
            host.stop_all()


@pytest.fixture
def host(shared_host: Host) -> Iterator[Host]:
    """Give the host with nothing deployed on it; layers that it has unpacked stay."""
    yield shared_host
    shared_host.stop_all()
    shared_host.names.clear()


@pytest.fixture(scope="module")
def client(local_site: Any) -> Iterator[RegistryClient]:
    env = local_site.env
    with RegistryClient(
        env["LOCAL_SITE_REGISTRY"],
        user=env["LOCAL_SITE_REGISTRY_USER"],
        password=env["LOCAL_SITE_REGISTRY_PASSWORD"],
        ca_certificate=Path(env["LOCAL_SITE_CA"]),
    ) as one:
        push_base(one)
        yield one


@pytest.fixture
def connect(
    connections: dict[str, str], local_site_env: dict[str, str], airflow_connection: AirflowConnection
) -> Callable[..., None]:
    """Give Airflow the site's connections; the function changes that of the host."""
    env = local_site_env
    airflow_connection("container_registry", **registry_fields(env))

    def host(**changes: Any) -> None:
        keys = {"host_key": env["LOCAL_SITE_VM_HOST_KEY"], "key_file": env["LOCAL_SITE_VM_KEY_FILE"]}
        fields = {
            "conn_type": "ssh",
            "host": env["LOCAL_SITE_VM_HOST"],
            "port": int(env["LOCAL_SITE_VM_PORT"]),
            "login": env["LOCAL_SITE_VM_USER"],
            "extra": {**keys, "serving_port": env["LOCAL_SITE_SERVING_PORT"]},
        }
        airflow_connection("serving_host", **{**fields, **changes})

    host()
    return host


@pytest.fixture
def made(
    client: RegistryClient,
    connect: Callable[..., None],
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Made:
    """Give what makes images of the small server with their models, as after a training on the site's own data."""
    # The SDK registers files below the working directory only.
    monkeypatch.chdir(tmp_path)
    looked = {
        "base": resolve_base(client, BASE, "linux/amd64").reference,
        "data": pipeline.verify(),
        "compute": pipeline.ensure(),
        "scripts_folder": str(SCRIPTS),
    }
    return Made(client, tmp_path, looked)
