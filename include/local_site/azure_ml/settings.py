"""Who and where this server is: its names, secrets and files.

What is not given is made up once and kept in the state folder, so that a restart is the same workspace.
"""

from __future__ import annotations

import json
import secrets
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_site.azure_ml.files import write_file

CLOUD = "AmlLocal"
SERVICES = ("api", "experimentation", "history", "hyperdrive", "modelmanagement", "studio")
GIVEN = ("client_id", "client_secret", "tenant_id", "subscription_id", "resource_group", "workspace")
TUNED = {
    "runs_per_vm": int,
    "token_seconds": int,
    "run_token_seconds": int,
    "vm_loss_seconds": int,
    "virtual_machines": dict,
    "registry": dict,
}
REGISTRY = ("address", "user", "password", "ca", "base")


class SettingsError(Exception):
    """The settings file is wrong, or there is no server's state where it was looked for."""


@dataclass(frozen=True)
class Settings:
    """Everything the server is told.

    :param state: the folder that holds all it keeps.
    :param port: the TCP port on 127.0.0.1.
    :param ca_bundle: PEM file with every authority that a client must trust; runs on the VM get a copy.
    :param client_id: the service principal that may log in.
    :param tenant_id: its tenant; the SDK reaches a private authority only as ``adfs``.
    :param workspace_id: names this state: the SDK's local caches are keyed by it.
    :param signing_key: hex secret of tokens and blob URLs.
    :param runs_per_vm: how many runs one VM trains at the same time; the rest is queued.
    :param token_seconds: how long a client's token is good.
    :param run_token_seconds: how long a run's own token is good; it can be renewed.
    :param vm_loss_seconds: how long a running run may be out of sight before it has failed.
    :param virtual_machines: addresses of the VMs that can be attached by resource id.
    :param registry: where packaged images go: ``address``, ``user``, ``password``, ``ca`` (PEM file) and ``base``, the
        ``repository:tag`` of the Python image that they stand on; empty when there is none.
    """

    state: Path
    port: int
    ca_bundle: Path
    client_id: str
    client_secret: str = field(repr=False)
    tenant_id: str
    subscription_id: str
    resource_group: str
    workspace: str
    workspace_id: str
    signing_key: str = field(repr=False)
    location: str = "local"
    runs_per_vm: int = 2
    token_seconds: int = 3600
    run_token_seconds: int = 6 * 3600
    vm_loss_seconds: int = 20
    virtual_machines: dict[str, str] = field(default_factory=dict)
    registry: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def base_url(self) -> str:
        """Return the address of every service of this workspace, without a slash at the end."""
        return f"https://localhost:{self.port}"

    @property
    def workspace_path(self) -> str:
        """Return the workspace's ARM id."""
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"
        )

    @property
    def cloud_file(self) -> Path:
        """Return the file that tells the SDK of this cloud (ARM_CLOUD_METADATA_URL)."""
        return self.state / "cloud.json"

    def exports(self) -> dict[str, str]:
        """Return the environment with which a program's SDK reaches this server."""
        return {
            "ARM_CLOUD_METADATA_URL": self.cloud_file.as_uri(),
            "AZUREML_CURRENT_CLOUD": CLOUD,
            "AZURE_CONFIG_DIR": str(self.state / "no-azure-cli-config"),
            "REQUESTS_CA_BUNDLE": str(self.ca_bundle),
            "LOCAL_SITE_AZURE_ML_URL": self.base_url,
            "LOCAL_SITE_TENANT_ID": self.tenant_id,
            "LOCAL_SITE_CLIENT_ID": self.client_id,
            "LOCAL_SITE_CLIENT_SECRET": self.client_secret,
            "LOCAL_SITE_SUBSCRIPTION_ID": self.subscription_id,
            "LOCAL_SITE_RESOURCE_GROUP": self.resource_group,
            "LOCAL_SITE_WORKSPACE": self.workspace,
        }


def make_settings(state: Path, port: int, ca_bundle: Path, given: Path | None) -> Settings:
    """Join what was given with what was made up before, and keep the result for the next start.

    :param state: the state folder; made when it is missing.
    :param given: JSON file with any of the settings a person may choose, or ``None``.
    :raises SettingsError: when the file cannot be read or names a setting that there is not.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = _read(state / "kept.json") if (state / "kept.json").exists() else _made_up()
    kept |= _chosen(given) if given else {}
    kept["ca_bundle"] = str(ca_bundle)
    write_file(state / "kept.json", [json.dumps(kept, indent=2).encode()])
    settings = Settings(state=state, port=port, **{**kept, "ca_bundle": ca_bundle})
    write_file(settings.cloud_file, [json.dumps(_cloud(settings), indent=2).encode()], mode=0o644)
    return settings


def kept_settings(state: Path, port: int) -> Settings:
    """Read what an earlier start kept.

    :raises SettingsError: when no server was started with this state folder yet.
    """
    if not (state / "kept.json").exists():
        raise SettingsError(f"{state} is not the state of a server; start one there first (--state {state}).")
    kept = _read(state / "kept.json")
    return Settings(state=state, port=port, **{**kept, "ca_bundle": Path(kept["ca_bundle"])})


def _made_up() -> dict[str, Any]:
    return {
        "client_id": str(uuid.uuid4()),
        "client_secret": secrets.token_urlsafe(30),
        "tenant_id": "adfs",
        "subscription_id": str(uuid.uuid4()),
        "resource_group": "edge",
        "workspace": "edge-workspace",
        "workspace_id": str(uuid.uuid4()),
        "signing_key": secrets.token_hex(32),
    }


def _chosen(path: Path) -> dict[str, Any]:
    chosen = _read(path)
    unknown = sorted(set(chosen) - {*GIVEN, *TUNED})
    if unknown:
        raise SettingsError(f"{path} names {', '.join(unknown)}; the settings are {', '.join((*GIVEN, *TUNED))}.")
    for name, value in chosen.items():
        kind = TUNED.get(name, str)
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 1):
            wanted = {int: "a whole number above 0", dict: "an object", str: "text"}[kind]
            raise SettingsError(f"In {path}, {name} is {value!r}; it must be {wanted}.")
    registry = chosen.get("registry", {})
    if registry and (set(registry) != set(REGISTRY) or not all(isinstance(one, str) for one in registry.values())):
        raise SettingsError(f"In {path}, registry must have these texts and no others: {', '.join(REGISTRY)}.")
    return chosen


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold one JSON object.")
    return content


def _cloud(settings: Settings) -> list[dict[str, Any]]:
    """Describe this server as a cloud, in the form that Azure's command line reads for air-gapped clouds."""
    url = settings.base_url
    return [
        {
            "name": CLOUD,
            "portal": url,
            "resourceManager": url,  # computes' URLs are made by joining: no slash here
            "authentication": {"loginEndpoint": f"{url}/", "audiences": [f"{url}/"]},
            "graphAudience": f"{url}/graph/",
            "suffixes": {"storage": "localhost", "acrLoginServer": "localhost"},
        }
    ]
