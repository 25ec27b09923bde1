"""Attaching a virtual machine, and what the workspace then knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.azure_ml.servers import AzureML, free_port
from tests.integration.azure_ml.web import Http, error_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.azure_ml.sdk import Sdk
    from tests.integration.azure_ml.servers import VirtualMachine


def found(sdk: Sdk, name: str) -> Any:
    from azureml.core.compute import ComputeTarget

    return ComputeTarget(sdk.workspace, name)


def test_an_attached_vm_is_found_by_name_and_in_the_list(sdk: Sdk, vm: VirtualMachine) -> None:
    target = found(sdk, "edge-vm")
    assert (target.provisioning_state, target.address, target.ssh_port) == ("Succeeded", "127.0.0.1", vm.port)
    assert "edge-vm" in sdk.workspace.compute_targets


def test_the_credentials_are_given_back_as_azure_does(sdk: Sdk, vm: VirtualMachine) -> None:
    account = found(sdk, "edge-vm").get_credentials()["administratorAccount"]
    assert account["username"] == vm.user
    assert account["privateKeyData"] == vm.key.read_text()


def test_a_detached_vm_is_gone(sdk: Sdk) -> None:
    from azureml.exceptions import ComputeTargetException

    sdk.attach("to-detach").detach()
    with pytest.raises(ComputeTargetException, match="ComputeTargetNotFound"):
        found(sdk, "to-detach")


def test_an_attach_to_nobody_fails_and_says_why(sdk: Sdk) -> None:
    from azureml.exceptions import ComputeTargetException

    with pytest.raises(ComputeTargetException, match="cannot be reached"):
        sdk.attach("nobody", ssh_port=free_port())
    target = found(sdk, "nobody")
    assert target.provisioning_state == "Failed"
    assert "ComputeUnreachable" in str(target.provisioning_errors)


def test_an_attach_with_the_wrong_key_fails_and_says_why(sdk: Sdk, vm: VirtualMachine) -> None:
    from azureml.exceptions import ComputeTargetException

    with pytest.raises(ComputeTargetException, match="refused the credentials"):
        sdk.attach("wrong-key", private_key_file=str(vm.folder / "host"))
    assert found(sdk, "wrong-key").provisioning_state == "Failed"


def test_an_attach_with_a_password_is_tried_with_it(sdk: Sdk) -> None:
    from azureml.exceptions import ComputeTargetException

    with pytest.raises(ComputeTargetException, match="refused the credentials"):
        sdk.attach("by-password", private_key_file="", password="not its password")


def test_what_is_no_private_key_is_said_to_be_none(sdk: Sdk, tmp_path: Path) -> None:
    from azureml.exceptions import ComputeTargetException

    (tmp_path / "key").write_text("hello")
    with pytest.raises(ComputeTargetException, match="private key cannot be read"):
        sdk.attach("no-key", private_key_file=str(tmp_path / "key"))


def test_a_vm_that_shows_another_host_key_is_not_attached_again_until_it_is_detached(
    sdk: Sdk, vm: VirtualMachine
) -> None:
    from azureml.exceptions import ComputeTargetException

    sdk.attach("rebuilt")
    before = (vm.folder / "host").read_bytes(), (vm.folder / "host.pub").read_bytes()
    vm.end()
    vm.make_host_key()
    vm.start()
    try:
        with pytest.raises(ComputeTargetException, match="answers with the host key"):
            sdk.attach("rebuilt")
        found(sdk, "rebuilt").detach()
        assert sdk.attach("rebuilt").provisioning_state == "Succeeded"
    finally:
        vm.end()
        (vm.folder / "host").write_bytes(before[0])
        (vm.folder / "host.pub").write_bytes(before[1])
        vm.start()


def test_a_vm_is_attached_by_resource_id_when_the_settings_say_where_it_is(vm: VirtualMachine, tmp_path: Path) -> None:
    resource = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/trainer"
    server = AzureML(tmp_path, virtual_machines={resource: "127.0.0.1"})
    server.start()
    try:
        http = Http(server)
        account = {"username": vm.user, "privateKeyData": vm.key.read_text()}
        inner = {"sshPort": vm.port, "administratorAccount": account}
        properties = {"computeType": "VirtualMachine", "resourceId": resource, "properties": inner}
        answer = http.call("PUT", "{W}/computes/by-id", json={"location": "local", "properties": properties})
        where = answer.headers["Azure-AsyncOperation"].removeprefix(server.url)
        assert http.call("GET", where).json()["status"] == "Succeeded"
        assert http.call("GET", "/rp/workspaces{W}/computes/by-id").json()["properties"]["resourceId"] == resource
        properties["resourceId"] = resource.replace("trainer", "unknown")
        answer = http.call("PUT", "{W}/computes/by-id", json={"location": "local", "properties": properties})
        assert error_of(answer)[:2] == (400, "VirtualMachineNotFound")
    finally:
        server.end()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a", {}),
        ("has_underscore", {}),
        ("no-credentials", {"administratorAccount": {"username": "someone"}}),
        ("no-address", {"address": None}),
        ("port-is-text", {"sshPort": "22"}),
    ],
)
def test_an_attach_that_cannot_be_meant_is_refused(http: Http, name: str, change: dict[str, Any]) -> None:
    account = {"username": "someone", "password": "something"}
    inner = {"address": "127.0.0.1", "sshPort": 22, "administratorAccount": account, **change}
    body = {"properties": {"computeType": "VirtualMachine", "properties": inner}}
    assert error_of(http.call("PUT", f"{{W}}/computes/{name}", json=body))[:2] == (400, "BadArgument")
    assert http.call("GET", f"/rp/workspaces{{W}}/computes/{name}").status_code == 404
