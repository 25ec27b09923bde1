"""Hosts whose account has a systemd of its own keep what serves as a unit of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.deployment.support import Host, answers, ask, refused_port
from tests.integration.deployment.test_host import processes_of, wait_until
from tests.integration.images.support import PASSWORD, USER, Registry, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.deployment.test_host import Images

UP = {"running", "degraded"}
SYSTEMD = "/usr/lib/systemd/systemd"
# An account's systemd only starts on a machine that looks as if systemd had started it; this mount namespace does.
SESSION = f"mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec {SYSTEMD} --user"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path(SYSTEMD).exists() or shutil.which("systemctl") is None,
    reason="needs the programs of systemd, and root to make a mount namespace for them",
)


@pytest.fixture(scope="module")
def account(registry: Registry) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="host-") as folder:
        home = Path(folder)
        (home / "x").mkdir(mode=0o700)
        own = {"HOME": folder, "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(home / "x")}
        with (home / "systemd.log").open("wb") as log:
            systemd = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", SESSION],
                env={**own, "SYSTEMD_LOG_TARGET": "console"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        told = {"address": registry.address, "user": USER, "password": PASSWORD, "ca_pem": registry.ca.read_text()}
        inside = ("nsenter", f"--mount=/proc/{systemd.pid}/ns/mnt", "env", f"XDG_RUNTIME_DIR={home / 'x'}")
        host = Host(home, told, python=(*inside, sys.executable, "-I"))
        try:
            wait_until(lambda: systemd.poll() is not None or systemctl(host, "is-system-running") in UP)
            if systemd.poll() is not None:
                pytest.skip(f"an account's systemd does not start here: {(home / 'systemd.log').read_text()[-500:]}")
            yield host
        finally:
            systemd.terminate()
            systemd.wait(60)


@pytest.fixture
def host(account: Host) -> Iterator[Host]:
    """Give the host with nothing deployed on it."""
    yield account
    account.stop_all()


def systemctl(host: Host, *arguments: str) -> str:
    command = [*host.python[:-2], "systemctl", "--user", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=False).stdout.strip()


def test_what_serves_is_a_unit_that_comes_back_and_is_gone_when_it_is_stopped(host: Host, images: Images) -> None:
    port, unit = free_port(), "edge-serving-kept.service"
    done = host.deploy("kept", port, images[0], 1)
    assert done.error is None, done.error
    assert done.value["supervisor"] == "systemd"
    assert (systemctl(host, "is-active", unit), systemctl(host, "is-enabled", unit)) == ("active", "enabled")
    assert host.deploy("kept", port, images[1], 2).error is None
    assert ask(port)[1]["version"] == "2"
    front = int(systemctl(host, "show", "--property", "MainPID", "--value", unit))
    os.kill(front, signal.SIGKILL)
    wait_until(lambda: systemctl(host, "show", "--property", "MainPID", "--value", unit) not in {str(front), "0"})
    wait_until(lambda: answers(port))
    assert ask(port)[1]["version"] == "2"
    assert host.run("stop", name="kept").value == {"stopped": True}
    assert (systemctl(host, "is-active", unit), systemctl(host, "is-enabled", unit)) == ("inactive", "disabled")
    wait_until(lambda: processes_of(host) == [])


def test_a_port_that_is_taken_is_named_at_once_and_the_unit_is_not_tried_again(host: Host, images: Images) -> None:
    with refused_port(host, images[0]) as port:
        assert systemctl(host, "show", "--property", "NRestarts", "--value", "edge-serving-taken.service") == "0"
    assert host.deploy("taken", port, images[0], 1).error is None
