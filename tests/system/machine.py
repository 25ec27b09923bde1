"""A machine on which the demo is tried as a person would, and what is looked at from outside: processes, ports, Azure ML, the registry."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from demo.settings import PROJECT, DemoSettings

if TYPE_CHECKING:
    from tests.running_site import RunningSite

# What the workspace says, asked through the SDK by a program that knows nothing but the site's variables.
ASK_AZURE_ML = """
import json, os, warnings
warnings.simplefilter("ignore")
from azureml.core import Model, Run, Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
e = os.environ
auth = ServicePrincipalAuthentication(
    e["LOCAL_SITE_TENANT_ID"], e["LOCAL_SITE_CLIENT_ID"], e["LOCAL_SITE_CLIENT_SECRET"], cloud=e["AZUREML_CURRENT_CLOUD"]
)
workspace = Workspace(e["LOCAL_SITE_SUBSCRIPTION_ID"], e["LOCAL_SITE_RESOURCE_GROUP"], e["LOCAL_SITE_WORKSPACE"], auth=auth)
runs = [r for x in workspace.experiments.values() for r in x.get_runs()]
print(json.dumps({
    "models": [[m.name, m.version, m.run_id, m.tags, str(m.created_time)] for m in Model.list(workspace)],
    "runs": [[r.id, r.status, r.get_metrics()] for r in runs],
}))
"""


@dataclass(frozen=True)
class Process:
    """A process; its start time tells it from a later one that was given the same id."""

    pid: int
    started: int
    parent: int = field(compare=False)


@dataclass(frozen=True)
class Machine:
    """A machine on which the demo is tried: state, ports, and what they are called in the environment."""

    site: RunningSite
    variables: dict[str, str]

    @property
    def settings(self) -> DemoSettings:
        return DemoSettings.from_environment(self.variables)

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(str(PROJECT / name) for name in ("include", "plugins"))
        return {**self.site.environment(), **self.variables, "PYTHONPATH": path}

    def demo(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "demo", *arguments],
            cwd=PROJECT,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.settings.facts_file.read_text())
        return facts

    def azure_ml(self) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", ASK_AZURE_ML],
            env={**self.environment, **self.site.env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def login(self) -> dict[str, str]:
        admin = json.loads((self.settings.airflow_home / "passwords.json").read_text())["admin"]
        credentials = {"username": "admin", "password": admin}
        answer = requests.post(f"{self.settings.api_url}/auth/token", json=credentials, timeout=10)
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def registry_digest(self, repository: str, tag: str) -> str:
        env = self.site.env
        answer = requests.head(
            f"https://{env['LOCAL_SITE_REGISTRY']}/v2/{repository}/manifests/{tag}",
            auth=(env["LOCAL_SITE_REGISTRY_USER"], env["LOCAL_SITE_REGISTRY_PASSWORD"]),
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
            verify=env["LOCAL_SITE_CA"],
            timeout=10,
        )
        answer.raise_for_status()
        return answer.headers["Docker-Content-Digest"]

    def processes(self) -> set[Process]:
        """Return every process of the demo and of the site, and all that these have started."""
        folders = (self.settings.pids, self.site.settings.pids)
        roots = {json.loads(path.read_text())["pid"] for folder in folders for path in folder.glob("*.json")}
        table = living_processes()
        family = {process.pid for process in table if process.pid in roots}
        while more := {process.pid for process in table if process.parent in family} - family:
            family |= more
        return {process for process in table if process.pid in family}


def living_processes() -> set[Process]:
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                found.add(Process(int(folder.name), started=int(fields[19]), parent=int(fields[1])))
    return found


def listening_addresses(processes: set[Process]) -> set[str]:
    """Return the addresses on which processes listen, from the kernel's own tables."""
    inodes = set()
    for process in processes:
        for link in Path(f"/proc/{process.pid}/fd").glob("*"):
            try:
                target = str(link.readlink())
            except OSError:
                continue
            inodes |= set(re.findall(r"^socket:\[(\d+)\]$", target))
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                words = bytes.fromhex(fields[1].partition(":")[0])
                address = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                found.add(socket.inet_ntop(family, address))
    return found
