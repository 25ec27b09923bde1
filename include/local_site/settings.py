"""Where the local site lives and listens, and what a program has to know to reach it."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_site.credentials import Credentials
from local_site.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT = Path(__file__).resolve().parents[2]
VM_ACCOUNT = "edge-vm"

_DEFAULT_PORTS = {
    "LOCAL_SITE_BLOB_PORT": 10443,
    "LOCAL_SITE_SSH_PORT": 10022,
    "LOCAL_SITE_REGISTRY_PORT": 10500,
    "LOCAL_SITE_AZURE_ML_PORT": 10444,
    "LOCAL_SITE_SERVING_PORT": 10600,
}


@dataclass(frozen=True)
class Settings:
    """The settings of one local site.

    :param state: Folder of everything that belongs to this site (LOCAL_SITE_STATE).
    :param cache: Folder of what sites share because it is slow to make (LOCAL_SITE_CACHE).
    :param blob_port: TCP port of the blob storage (LOCAL_SITE_BLOB_PORT).
    :param ssh_port: TCP port of the training VM (LOCAL_SITE_SSH_PORT).
    :param registry_port: TCP port of the registry (LOCAL_SITE_REGISTRY_PORT).
    :param azure_ml_port: TCP port of Azure ML (LOCAL_SITE_AZURE_ML_PORT).
    :param serving_port: TCP port that a model deployed on the VM takes (LOCAL_SITE_SERVING_PORT).
    :param vm_account: The account of the training VM: its own as root, else that of the caller.
    """

    state: Path
    cache: Path
    blob_port: int
    ssh_port: int
    registry_port: int
    azure_ml_port: int
    serving_port: int
    vm_account: str

    blob_account = "edgedata"
    blob_container = "training-data"
    blob_prefix = "breast-cancer/"
    base_image = ("base/python", "3.11-bookworm")
    training_lock = PROJECT / "include/training_scripts/breast_cancer/requirements.lock"

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read the settings.

        :param env: The variables; those of this process by default.
        :raises SettingError: A port is not one, or two services shall have the same.
        """
        env = os.environ if env is None else env
        ports = {name: _port(env, name, default) for name, default in _DEFAULT_PORTS.items()}
        for name, port in ports.items():
            twin = next((other for other in ports if other != name and ports[other] == port), None)
            if twin is not None:
                raise SettingError(f"{name} and {twin} are both {port}. Give each service a port of its own.")
        return cls(
            state=_folder(env, "LOCAL_SITE_STATE", PROJECT / ".local/site"),
            cache=_folder(env, "LOCAL_SITE_CACHE", PROJECT / ".local/cache"),
            blob_port=ports["LOCAL_SITE_BLOB_PORT"],
            ssh_port=ports["LOCAL_SITE_SSH_PORT"],
            registry_port=ports["LOCAL_SITE_REGISTRY_PORT"],
            azure_ml_port=ports["LOCAL_SITE_AZURE_ML_PORT"],
            serving_port=ports["LOCAL_SITE_SERVING_PORT"],
            vm_account=VM_ACCOUNT if os.geteuid() == 0 else getpass.getuser(),
        )

    @property
    def pids(self) -> Path:
        """The folder that records which processes belong to this site."""
        return self.state / "pids"

    @property
    def logs(self) -> Path:
        """The folder of the services' log files."""
        return self.state / "logs"

    @property
    def tls(self) -> Path:
        """The folder of the private CA and of the server certificate it signed."""
        return self.state / "tls"

    @property
    def vm(self) -> Path:
        """The folder of the training VM: its home, keys and server settings."""
        return self.state / "vm"

    @property
    def azure_ml(self) -> Path:
        """The folder of the Azure ML server."""
        return self.state / "azure_ml"

    @property
    def blob_endpoint(self) -> str:
        """The address of the storage account."""
        return f"https://127.0.0.1:{self.blob_port}/{self.blob_account}"

    @property
    def registry(self) -> str:
        """The address of the registry, as it stands in image references."""
        return f"127.0.0.1:{self.registry_port}"

    @property
    def azure_ml_url(self) -> str:
        """The address of Azure ML; the SDK insists on a host name."""
        return f"https://localhost:{self.azure_ml_port}"

    def exports(self) -> dict[str, str]:
        """Return the variables with which any program's SDKs reach this site.

        :raises LocalSiteError: The site has never been started.
        """
        credentials = Credentials.read(self.state)
        return {
            "ARM_CLOUD_METADATA_URL": (self.azure_ml / "cloud.json").as_uri(),
            "AZUREML_CURRENT_CLOUD": "AmlLocal",
            # The SDK must not find an Azure login of this user.
            "AZURE_CONFIG_DIR": str(self.state / "no-azure-login"),
            "REQUESTS_CA_BUNDLE": str(self.tls / "trust.pem"),
            "LOCAL_SITE_CA": str(self.tls / "ca.pem"),
            "LOCAL_SITE_BLOB_ENDPOINT": self.blob_endpoint,
            "LOCAL_SITE_BLOB_ACCOUNT": self.blob_account,
            "LOCAL_SITE_BLOB_KEY": credentials.storage_key,
            "LOCAL_SITE_BLOB_CONTAINER": self.blob_container,
            "LOCAL_SITE_VM_HOST": "127.0.0.1",
            "LOCAL_SITE_VM_PORT": str(self.ssh_port),
            "LOCAL_SITE_VM_USER": self.vm_account,
            "LOCAL_SITE_VM_KEY_FILE": str(credentials.client_key_file),
            "LOCAL_SITE_VM_HOST_KEY": credentials.host_key,
            "LOCAL_SITE_SERVING_PORT": str(self.serving_port),
            "LOCAL_SITE_RESIDENCY_KEY_FILE": str(credentials.residency_key_file),
            "LOCAL_SITE_REGISTRY": self.registry,
            "LOCAL_SITE_REGISTRY_USER": credentials.registry_user,
            "LOCAL_SITE_REGISTRY_PASSWORD": credentials.registry_password,
            "LOCAL_SITE_AZURE_ML_URL": self.azure_ml_url,
            "LOCAL_SITE_TENANT_ID": credentials.tenant_id,
            "LOCAL_SITE_CLIENT_ID": credentials.client_id,
            "LOCAL_SITE_CLIENT_SECRET": credentials.client_secret,
            "LOCAL_SITE_SUBSCRIPTION_ID": credentials.subscription_id,
            "LOCAL_SITE_RESOURCE_GROUP": credentials.resource_group,
            "LOCAL_SITE_WORKSPACE": credentials.workspace,
        }


def _port(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "").strip() or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingError(f"{name} is {text!r}, but has to be a TCP port: a number from 1 to 65535.")
    return int(text)


def _folder(env: Mapping[str, str], name: str, default: Path) -> Path:
    return Path(env.get(name) or default).expanduser().absolute()
