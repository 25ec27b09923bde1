"""The two processes that these tests stand on: the Azure ML stand-in, and an SSH server that plays the attached VM."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from local_site import certificates
from local_site.azure_ml.settings import kept_settings
from tests.running_site import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable

INCLUDE = Path(__file__).parents[3] / "include"


def free_port() -> int:
    return free_ports(1)[0]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Wait until a condition holds, and return what it returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


class Process:
    """A server that a test starts and ends."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.child: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(INCLUDE)}
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(self.command(), stdout=log, stderr=log, env=environment)
        wait_for(self._up, f"the start of {self.command()[0]} ({self.log})")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.child is None:
            return 0
        self.child.send_signal(number)
        status = self.child.wait(20)
        self.child = None
        return status

    def _up(self) -> bool:
        assert self.child is not None
        assert self.child.poll() is None, self.log.read_text()
        return self.ready()


class AzureML(Process):
    """The server under test.

    :param folder: a folder of its own.
    :param restarts: whether it is killed and started again between any two calls.
    :param settings: settings to start it with.
    """

    def __init__(self, folder: Path, *, restarts: bool = False, **settings: Any) -> None:
        super().__init__(folder / "azure-ml.log")
        self.restarts = restarts or bool(os.environ.get("AZURE_ML_RESTARTS"))
        self.folder = folder
        self.port = free_port()
        certificates.ensure(folder)
        (folder / "given.json").write_text(json.dumps({"runs_per_vm": 2, **settings}))

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def command(self) -> list[str]:
        files = ["--cert", "server.pem", "--key", "server.key", "--ca-bundle", "ca.pem", "--settings", "given.json"]
        paths = [str(self.folder / item) if "." in item else item for item in files]
        return [*self._program(), "--state", str(self.state), "--port", str(self.port), *paths, "--print", "nothing"]

    def _program(self) -> list[str]:
        if self.restarts:
            return [sys.executable, str(Path(__file__).with_name("restarting.py"))]
        return [sys.executable, "-m", "local_site.azure_ml", "serve"]

    def ready(self) -> bool:
        try:
            return bool(self.control("GET", "/health")["status"] == "ok")
        except OSError:
            return False

    def kill_and_restart(self) -> None:
        """Take the power away, and put it back."""
        self.end(signal.SIGKILL)
        self.start()

    def exports(self) -> dict[str, str]:
        """Return the environment with which an SDK reaches the server."""
        return kept_settings(self.state, self.port).exports()

    def control(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call a control endpoint."""
        trust = str(self.folder / "ca.pem")
        answer = requests.request(method, self.url + path, json=body, verify=trust, timeout=10)
        answer.raise_for_status()
        content: dict[str, Any] = answer.json()
        return content

    def journal(self) -> list[dict[str, Any]]:
        """Return the journal."""
        entries: list[dict[str, Any]] = self.control("GET", "/_control/journal")["requests"]
        return entries


class VirtualMachine(Process):
    """An SSH server for the current account, with a home folder of its own.

    :param folder: a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "sshd.log")
        self.folder = folder
        self.port = free_port()
        self.user = getpass.getuser()
        self.home = folder / "home dir"
        self.home.mkdir()
        self.key = folder / "client"
        self.config = folder / "sshd_config"
        self.config.write_text("".join(f"{name} {value}\n" for name, value in self._options().items()))
        self.make_host_key()
        _keygen(self.key)
        (folder / "authorized").write_bytes(self.key.with_suffix(".pub").read_bytes())
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)

    def make_host_key(self) -> None:
        """Give the machine a new identity, as a rebuilt one has."""
        for file in self.folder.glob("host*"):
            file.unlink()
        _keygen(self.folder / "host")

    def command(self) -> list[str]:
        return ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.config)]

    def _options(self) -> dict[str, str]:
        return {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": str(self.folder / "host"),
            "AuthorizedKeysFile": str(self.folder / "authorized"),
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "SetEnv": f'HOME="{self.home}"',
        }

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def cut_connections(self) -> None:
        """Break every connection that is open, as a network does."""
        assert self.child is not None
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if int(path.read_text().rpartition(") ")[2].split()[1]) == self.child.pid:
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def run_folders(self) -> list[str]:
        """Return the runs whose folders are on the machine."""
        return sorted(path.name for path in (self.home / "azureml" / "runs").glob("*"))


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
