"""Fixtures of the deployment tests: a registry with small images, and a host of the tests' own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.airflow_harness import airflow_connection, comms, run_task
from tests.integration.deployment.support import Host, push_base, push_image
from tests.integration.images.support import PASSWORD, USER, Registry, run_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["airflow_connection", "comms", "run_task"]


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
