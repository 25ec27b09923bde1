"""What the tests do through the SDK's public API."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.azure_ml.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.azure_ml.servers import AzureML, VirtualMachine

TERMINAL = {"Completed", "Failed", "Canceled"}


@contextmanager
def pointed_at(exports: dict[str, str], home: Path) -> Iterator[None]:
    """Point this process's SDK at a server for the length of a block.

    The SDK reads its clouds once, when it is imported; a test session has several servers, so they are read again.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))  # its caches of snapshots and addresses
        for name, value in exports.items():
            patch.setenv(name, value)
        read_clouds()
        yield
    read_clouds()


def read_clouds() -> None:
    """Let the SDK know the clouds that the environment names now."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the SDK uses what it deprecates itself
        from azureml._vendor.azure_cli_core import azureml_cloud, cloud

    azureml_cloud.KNOWN_CLOUDS[:] = cloud.get_known_clouds(refresh=True)
    azureml_cloud._Clouds._clouds = None


class Sdk:
    """The SDK, logged in as the service principal.

    :param server: the workspace's server.
    :param vm: the machine to attach.
    """

    def __init__(self, server: AzureML, vm: VirtualMachine) -> None:
        self.server = server
        self.vm = vm
        self.workspace = self.log_in()

    def log_in(self, **other: str) -> Any:
        """Return the workspace; ``secret`` or ``workspace`` may be other than the right ones."""
        from azureml.core import Workspace
        from azureml.core.authentication import ServicePrincipalAuthentication

        facts = self.server.exports()
        auth = ServicePrincipalAuthentication(
            facts["LOCAL_SITE_TENANT_ID"],
            facts["LOCAL_SITE_CLIENT_ID"],
            other.get("secret", facts["LOCAL_SITE_CLIENT_SECRET"]),
            cloud=facts["AZUREML_CURRENT_CLOUD"],
        )
        name = other.get("workspace", facts["LOCAL_SITE_WORKSPACE"])
        return Workspace(facts["LOCAL_SITE_SUBSCRIPTION_ID"], facts["LOCAL_SITE_RESOURCE_GROUP"], name, auth=auth)

    def attach(self, name: str, **other: Any) -> Any:
        """Attach the VM by address and key, and return what the workspace then has."""
        from azureml.core.compute import ComputeTarget, RemoteCompute

        options = {
            "username": self.vm.user,
            "address": "127.0.0.1",
            "ssh_port": self.vm.port,
            "private_key_file": str(self.vm.key),
            **other,
        }
        target = ComputeTarget.attach(self.workspace, name, RemoteCompute.attach_configuration(**options))
        target.wait_for_completion()
        return target

    def submit(self, folder: Path, script: str, run_id: str, *arguments: Any, **options: Any) -> Any:
        """Write a script, submit it as a run and return the run."""
        from azureml.core import Environment, Experiment, RunConfiguration, ScriptRunConfig

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "main.py").write_text(script)
        environment = options.get("environment") or Environment("on-the-vm")
        if "environment" not in options:
            environment.python.user_managed_dependencies = True
            environment.python.interpreter_path = options.get("interpreter", sys.executable)
        configuration = RunConfiguration()
        configuration.target = options.get("compute", "edge-vm")
        configuration.environment = environment
        configuration.docker = options.get("docker", configuration.docker)
        configuration.environment_variables = options.get("variables", {})
        configuration.max_run_duration_seconds = options.get("seconds")
        texts = [str(one) if isinstance(one, Path) else one for one in arguments]
        source = ScriptRunConfig(str(folder), script="main.py", arguments=texts, run_config=configuration)
        experiment = Experiment(self.workspace, options.get("experiment", "contract"))
        return experiment.submit(source, run_id=run_id, tags=options.get("tags"))

    def ended(self, run: Any, seconds: float = 60) -> dict[str, Any]:
        """Wait until a run has ended, and return its details."""

        def details() -> dict[str, Any] | None:
            found: dict[str, Any] = run.get_details()
            return found if found["status"] in TERMINAL else None

        found: dict[str, Any] = wait_for(details, f"the end of run {run.id}", seconds)
        return found
