"""A server and a VM that the modules share, and the real SDK pointed at them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import pytest

from tests.integration.azure_ml.sdk import Sdk, pointed_at
from tests.integration.azure_ml.servers import AzureML, VirtualMachine
from tests.integration.azure_ml.web import Http

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where servers die all the time, allow what a cut handshake leaves: a socket that only the garbage collector closes."""
    if os.environ.get("AZURE_ML_RESTARTS"):
        for item in items:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


def scope(fixture_name: str, config: pytest.Config) -> Literal["module", "session"]:
    """Return how long the server and the VM live: where every path is good for two deaths, each module has its own."""
    return "module" if os.environ.get("AZURE_ML_RESTARTS") else "session"


@pytest.fixture(scope=scope)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureML]:
    """Give the modules a server; one that needs other settings makes its own."""
    server = AzureML(tmp_path_factory.mktemp("azure-ml"))
    server.start()
    yield server
    server.end()


@pytest.fixture(scope=scope)
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMachine]:
    """Give the modules a VM."""
    vm = VirtualMachine(tmp_path_factory.mktemp("vm"))
    vm.start()
    yield vm
    vm.end()


@pytest.fixture(scope="module")
def sdk(
    local_site_env: dict[str, str], server: AzureML, vm: VirtualMachine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sdk]:
    """Give the module the SDK, logged in, with the VM attached as ``edge-vm``.

    The session's own site comes first, so that the SDK can be pointed back at it for the tests that follow.
    """
    with pointed_at(server.exports(), tmp_path_factory.mktemp("sdk-home")):
        sdk = Sdk(server, vm)
        sdk.attach("edge-vm")
        yield sdk


@pytest.fixture(scope="module")
def http(server: AzureML) -> Http:
    """Give the module plain requests."""
    return Http(server)
