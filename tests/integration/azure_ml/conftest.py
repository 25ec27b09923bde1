"""A server and a VM for each module, and the real SDK pointed at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.azure_ml.sdk import Sdk, pointed_at
from tests.integration.azure_ml.servers import AzureML, VirtualMachine
from tests.integration.azure_ml.web import Http

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureML]:
    """Give the module a server with a state of its own."""
    server = AzureML(tmp_path_factory.mktemp("azure-ml"))
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMachine]:
    """Give the module a VM."""
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
