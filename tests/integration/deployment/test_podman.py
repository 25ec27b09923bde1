"""Hosts without a bubblewrap that works run images in podman, as an ordinary account, and nothing of it outlives its starter."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.deployment.support import Host, answers, ask, probe
from tests.integration.deployment.test_host import processes_of, wait_until
from tests.integration.images.support import PASSWORD, USER, Registry, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.deployment.test_host import Images

# Gives the account a range of user ids, without which podman has only one, for the commands of this host alone.
AS_ACCOUNT = """
mount --bind "$RANGES" /etc/subuid && mount --bind "$RANGES" /etc/subgid && unset RANGES
exec setpriv --reuid $ACCOUNT --regid $ACCOUNT --clear-groups /usr/bin/python3 -I "$@"
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("podman") is None or shutil.which("newuidmap") is None,
    reason="needs podman, newuidmap, and root to become an account without rights",
)


def make_host(registry: Registry, home: Path, account: str, ranges: str) -> Host:
    programs = home / "programs"
    programs.mkdir()
    (programs / "bwrap").write_text("#!/bin/sh\necho 'no namespaces here' >&2\nexit 1\n")
    (programs / "bwrap").chmod(0o755)
    (home / "ranges").write_text(ranges)
    shutil.chown(home, account)
    told = {"address": registry.address, "user": USER, "password": PASSWORD, "ca_pem": registry.ca.read_text()}
    command = f"RANGES={home / 'ranges'} ACCOUNT={account}\n{AS_ACCOUNT}"
    return Host(
        home, told, python=("unshare", "--mount", "sh", "-c", command, "sh"), path=f"{programs}:{os.environ['PATH']}"
    )


@pytest.fixture(scope="module")
def account(registry: Registry) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="host-") as folder:
        host = make_host(registry, Path(folder), "games", "games:300000:65536\n")
        try:
            yield host
        finally:
            host.stop_all()
            # podman keeps the account's namespace in a process that it never ends.
            for process in Path("/proc").glob("[0-9]*"):
                if name_of(int(process.name)) == "podman pause" and process.owner() == "games":
                    os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture
def podman_host(account: Host) -> Iterator[Host]:
    """Give the host with nothing deployed on it."""
    yield account
    account.stop_all()
    wait_until(lambda: containers(account) == [])


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def containers(host: Host) -> list[int]:
    """Return the processes of podman that watch over a container each."""
    return [pid for pid in processes_of(host) if name_of(pid) == "conmon"]


def told_to(host: Host, command: str) -> list[int]:
    """Return the processes of the program for hosts that do a command."""
    found = []
    for pid in processes_of(host):
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if command.encode() in arguments and b"-I" in arguments and name_of(pid).startswith("python3"):
                found.append(pid)
    return found


def test_an_image_is_tried_out_and_nothing_of_it_is_left(podman_host: Host, images: Images) -> None:
    done = podman_host.run("verify", digest=images[0], probe=probe(1), requests=5)
    assert done.error is None, done.error
    assert (done.value["isolation"], done.value["compared"]) == ("podman", 2)
    assert done.value["memory_bytes"] > 5_000_000
    wait_until(lambda: containers(podman_host) == [])


def test_an_image_is_deployed_replaced_and_stopped(podman_host: Host, images: Images) -> None:
    port = free_port()
    assert podman_host.deploy("swapped", port, images[0], 1).error is None
    assert ask(port)[1]["version"] == "1"
    assert podman_host.deploy("swapped", port, images[1], 2).error is None
    assert ask(port)[1]["version"] == "2"
    assert ask(port, {"die": True, "data": []})[0] == 502
    assert ask(port)[1]["version"] == "2"
    assert podman_host.run("stop", name="swapped").value == {"stopped": True}
    wait_until(lambda: processes_of(podman_host) == [])


def test_a_front_that_is_killed_takes_its_container_along(podman_host: Host, images: Images) -> None:
    port = free_port()
    assert podman_host.deploy("killed", port, images[0], 1).error is None
    (before,) = containers(podman_host)
    (front,) = told_to(podman_host, "front")
    os.kill(front, signal.SIGKILL)
    wait_until(lambda: len(containers(podman_host)) == 1 and containers(podman_host) != [before])
    wait_until(lambda: answers(port))


def test_a_trial_that_is_killed_leaves_no_container(podman_host: Host, images: Images) -> None:
    with podman_host.start("verify", digest=images[2], probe=probe(3), requests=100_000):
        # Not the container in which it finds out whether podman works: the one whose program can be asked.
        wait_until(lambda: list((podman_host.home / ".edge-training/serving/v").glob("*/s")) != [])
        assert len(containers(podman_host)) == 1
        (killed,) = told_to(podman_host, "verify")
        os.kill(killed, signal.SIGKILL)
    wait_until(lambda: containers(podman_host) == [])
    assert told_to(podman_host, "verify") == []


def test_an_account_without_a_range_of_user_ids_is_told_what_is_missing(registry: Registry, images: Images) -> None:
    with tempfile.TemporaryDirectory(prefix="host-") as folder:
        host = make_host(registry, Path(folder), "daemon", "")
        error = host.run("verify", digest=images[0], probe=probe(1), requests=1).error
    assert (error["kind"], error["retryable"]) == ("sandbox", False)
    assert "bwrap does not work (no namespaces here)" in error["message"]
    assert "podman does not work" in error["message"]
    assert "/etc/subuid" in error["message"]
