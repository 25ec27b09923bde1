"""A local site of the tests' own: free ports, a state folder that goes away, the shared cache of what is slow to make."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_site.settings import PROJECT, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PORTS = range(12_000, 32_000)
_PORT_SETTINGS = (
    "LOCAL_SITE_BLOB_PORT",
    "LOCAL_SITE_SSH_PORT",
    "LOCAL_SITE_REGISTRY_PORT",
    "LOCAL_SITE_AZURE_ML_PORT",
    "LOCAL_SITE_SERVING_PORT",
)


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 on which nobody listens, all different.

    They are below those that the kernel gives to outgoing connections: one of these would take a port before its server does.

    :param count: How many.
    """
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            probe, port = stack.enter_context(socket.socket()), secrets.choice(PORTS)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found


@dataclass(frozen=True)
class RunningSite:
    """A local site and how to command it.

    :param variables: What `python -m local_site` needs to know to mean this site.
    """

    variables: Mapping[str, str]

    @classmethod
    def on_free_ports(cls, state: Path) -> RunningSite:
        """Describe a site that does not run yet.

        :param state: Its state folder.
        """
        ports = map(str, free_ports(len(_PORT_SETTINGS)))
        return cls({"LOCAL_SITE_STATE": str(state), **dict(zip(_PORT_SETTINGS, ports, strict=True))})

    @property
    def settings(self) -> Settings:
        """The settings of the site."""
        return Settings.from_environment({**os.environ, **self.variables})

    @property
    def env(self) -> dict[str, str]:
        """The variables with which a program's SDKs reach the site."""
        return self.settings.exports()

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that commands this site."""
        environment = {**os.environ, **self.variables, "PYTHONPATH": str(PROJECT / "include")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return environment

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m local_site` for this site, as a person would.

        :param arguments: The arguments.
        """
        return subprocess.run(
            [sys.executable, "-m", "local_site", *arguments],
            cwd=PROJECT,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def up(self, *names: str) -> None:
        """Start services; all without names. A failure shows what the site said.

        :param names: Some of the services.
        """
        done = self.command("up", *(["--only", ",".join(names)] if names else []))
        assert done.returncode == 0, f"the local site does not start:\n{done.stdout}{done.stderr}"

    def ssh(self, *command: str, key_file: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Log in to the training VM with OpenSSH's client and the pinned host key, and run a shell command there.

        :param command: The words of the command.
        :param key_file: Another private key than that of the site.
        """
        env = self.env
        known_hosts = self.settings.state / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{env['LOCAL_SITE_VM_PORT']} {env['LOCAL_SITE_VM_HOST_KEY']}\n")
        options = ["BatchMode=yes", "IdentitiesOnly=yes", f'UserKnownHostsFile="{known_hosts}"', "LogLevel=ERROR"]
        argv = [
            "ssh",
            "-F",
            "none",
            "-i",
            str(key_file or env["LOCAL_SITE_VM_KEY_FILE"]),
            "-p",
            env["LOCAL_SITE_VM_PORT"],
        ]
        argv += [word for option in options for word in ("-o", option)]
        return subprocess.run(
            [*argv, f"{env['LOCAL_SITE_VM_USER']}@{env['LOCAL_SITE_VM_HOST']}", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
