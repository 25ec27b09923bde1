"""Fixtures of the image tests: a registry, and the image of a model on a base that has Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.airflow_harness import airflow_connection, comms, run_task
from tests.integration.images.fault_proxy import FaultProxy, run_fault_proxy
from tests.integration.images.support import Registry, run_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_training.images.registry import RegistryClient

__all__ = ["airflow_connection", "comms", "run_task"]


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def client(registry: Registry) -> Iterator[RegistryClient]:
    with registry.client() as one:
        yield one


@pytest.fixture
def proxy(registry: Registry, tmp_path: Path) -> Iterator[FaultProxy]:
    """Put a proxy in front of the registry, with a folder of its own."""
    folder = tmp_path / "proxy"
    folder.mkdir()
    with run_fault_proxy(registry, folder) as running:
        yield running
