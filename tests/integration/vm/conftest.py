"""The local site's VM, and an sshd of the tests' own that has host keys of every type."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.hooks.training_vm import TrainingVMHook
from tests.airflow_harness import airflow_connection, comms, run_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.airflow_harness import AirflowConnection, FakeComms

__all__ = ["airflow_connection", "comms", "run_task"]


@dataclass(frozen=True)
class OwnSshd:
    """An sshd that lets the current user in with a key.

    :param port: on 127.0.0.1.
    :param folder: holds ``client`` (no passphrase), ``locked`` (passphrase ``open sesame``) and ``host_<type>`` keys.
    """

    port: int
    folder: Path

    def host_key(self, kind: str) -> str:
        """Return the public host key of a type."""
        return (self.folder / f"host_{kind}.pub").read_text().strip()


@pytest.fixture
def vm_fields(local_site: Any) -> dict[str, Any]:
    """Give the fields of a connection to the local site's VM that works."""
    env = local_site.env
    return {
        "conn_type": "ssh",
        "host": env["LOCAL_SITE_VM_HOST"],
        "port": int(env["LOCAL_SITE_VM_PORT"]),
        "login": env["LOCAL_SITE_VM_USER"],
        "extra": {"host_key": env["LOCAL_SITE_VM_HOST_KEY"], "key_file": env["LOCAL_SITE_VM_KEY_FILE"]},
    }


@pytest.fixture
def connect(
    airflow_connection: AirflowConnection, comms: FakeComms
) -> Iterator[Callable[[dict[str, Any]], TrainingVMHook]]:
    """Give a hook for a connection with the given fields; it is logged out at the end."""
    hooks: list[TrainingVMHook] = []

    def make(fields: dict[str, Any]) -> TrainingVMHook:
        airflow_connection("training_vm", **fields)
        hooks.append(TrainingVMHook())
        return hooks[-1]

    yield make
    for hook in hooks:
        hook.close()


@pytest.fixture
def vm(vm_fields: dict[str, Any], connect: Callable[[dict[str, Any]], TrainingVMHook]) -> TrainingVMHook:
    """Give a hook for the local site's VM."""
    return connect(vm_fields)


@pytest.fixture
def blob_connection(local_site: Any, airflow_connection: AirflowConnection) -> dict[str, Any]:
    """Give Airflow a connection to the local site's blob store."""
    env = local_site.env
    fields = {
        "conn_type": "wasb",
        "host": env["LOCAL_SITE_BLOB_ENDPOINT"],
        "login": env["LOCAL_SITE_BLOB_ACCOUNT"],
        "password": env["LOCAL_SITE_BLOB_KEY"],
        "extra": {"ca_certificate": env["LOCAL_SITE_CA"]},
    }
    airflow_connection("stack_hub_blob", **fields)
    return fields


@pytest.fixture(scope="module")
def own_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnSshd]:
    """Start an sshd with host keys of every type."""
    folder = tmp_path_factory.mktemp("sshd")
    for name, kind, passphrase in (
        ("host_ed25519", "ed25519", ""),
        ("host_ecdsa", "ecdsa", ""),
        ("host_rsa", "rsa", ""),
        ("client", "ed25519", ""),
        ("locked", "rsa", "open sesame"),
    ):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", folder / name], check=True)
    keys = [(folder / f"{name}.pub").read_text() for name in ("client", "locked")]
    (folder / "authorized_keys").write_text("".join(keys))
    server = OwnSshd(_free_port(), folder)
    (folder / "config").write_text(_sshd_config(server))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", folder / "config", "-E", folder / "log"])
    try:
        _wait_for(server.port, process)
        yield server
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def own_fields(own_sshd: OwnSshd) -> dict[str, Any]:
    """Give the fields of a connection to the tests' own sshd that works."""
    return {
        "conn_type": "ssh",
        "host": "127.0.0.1",
        "port": own_sshd.port,
        "login": getpass.getuser(),
        "extra": {"host_key": own_sshd.host_key("ed25519"), "key_file": str(own_sshd.folder / "client")},
    }


def _sshd_config(server: OwnSshd) -> str:
    hosts = "".join(f"HostKey {server.folder}/host_{kind}\n" for kind in ("ed25519", "ecdsa", "rsa"))
    return (
        f"Port {server.port}\nListenAddress 127.0.0.1\n{hosts}PidFile none\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {server.folder}/authorized_keys\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            assert process.poll() is None, "sshd ended at once"
            time.sleep(0.05)
        else:
            return
    raise AssertionError("sshd does not listen")
