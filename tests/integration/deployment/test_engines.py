"""Hosts without a bubblewrap that works run images in podman or docker's runtime, without rights; nothing outlives its starter."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.deployment.support import Host, answers, ask, probe, push_image
from tests.integration.deployment.test_host import processes_of, wait_until
from tests.integration.images.support import PASSWORD, USER, Registry, free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.integration.deployment.test_host import Images

# Gives the account a range of user ids, without which podman has only one, for the commands of this host alone.
AS_ACCOUNT = """
mount --bind "$RANGES" /etc/subuid && mount --bind "$RANGES" /etc/subgid && unset RANGES
exec setpriv --reuid $ACCOUNT --regid $ACCOUNT --clear-groups /usr/bin/python3 -I "$@"
"""

ORDER = {"bubblewrap": "bwrap", "podman": "podman", "runc": "runc"}
NEEDED = {"podman": ("podman", "newuidmap"), "runc": ("runc",)}
# Of each, the process on the host that watches over one container.
WATCHERS = {"podman": "conmon", "runc": "runc"}
ACCOUNTS = {"podman": "games", "runc": "man"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an account without rights")


def need(engine: str) -> None:
    for program in NEEDED[engine]:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed here")


def make_host(registry: Registry, home: Path, account: str, ranges: str, *, broken: Iterable[str]) -> Host:
    """Make a host with an account of its own, on which some ways to run an image do not work."""
    programs = home / "programs"
    programs.mkdir()
    for name in broken:
        program = programs / ORDER[name]
        program.write_text("#!/bin/sh\necho 'no namespaces here' >&2\nexit 1\n")
        program.chmod(0o755)
    (home / "ranges").write_text(ranges)
    shutil.chown(home, account)
    told = {"address": registry.address, "user": USER, "password": PASSWORD, "ca_pem": registry.ca.read_text()}
    command = f"RANGES={home / 'ranges'} ACCOUNT={account}\n{AS_ACCOUNT}"
    return Host(
        home, told, python=("unshare", "--mount", "sh", "-c", command, "sh"), path=f"{programs}:{os.environ['PATH']}"
    )


@dataclass(frozen=True)
class Engine:
    """A host on which one engine works, and none that comes before it."""

    name: str
    host: Host

    def containers(self) -> list[int]:
        """Return the processes that watch over a container each."""
        return [pid for pid in processes_of(self.host) if name_of(pid) == WATCHERS[self.name]]


@pytest.fixture(scope="module", params=sorted(NEEDED))
def account(registry: Registry, request: pytest.FixtureRequest) -> Iterator[Engine]:
    name: str = request.param
    need(name)
    account = ACCOUNTS[name]
    # runc is to do without what podman needs.
    ranges = f"{account}:300000:65536\n" if name == "podman" else ""
    broken = tuple(ORDER)[: tuple(ORDER).index(name)]
    with tempfile.TemporaryDirectory(prefix="host-") as folder:
        host = make_host(registry, Path(folder), account, ranges, broken=broken)
        try:
            yield Engine(name, host)
        finally:
            host.stop_all()
            end_pauses(account)


@pytest.fixture
def engine(account: Engine) -> Iterator[Engine]:
    """Give the engine with nothing deployed on its host."""
    yield account
    account.host.stop_all()
    wait_until(lambda: account.containers() == [])


def end_pauses(account: str) -> None:
    """End the process in which podman keeps an account's namespace, and which it never ends itself."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if name_of(int(process.name)) == "podman pause" and process.owner() == account:
                os.kill(int(process.name), signal.SIGKILL)


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def told_to(host: Host, command: str) -> list[int]:
    """Return the processes of the program for hosts that do a command."""
    found = []
    for pid in processes_of(host):
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if command.encode() in arguments and b"-I" in arguments and name_of(pid).startswith("python3"):
                found.append(pid)
    return found


def test_an_image_is_tried_out_and_nothing_of_it_is_left(engine: Engine, images: Images) -> None:
    done = engine.host.run("verify", digest=images[0], probe=probe(1), requests=5)
    assert done.error is None, done.error
    assert (done.value["isolation"], done.value["compared"]) == (engine.name, 2)
    assert done.value["memory_bytes"] > 5_000_000
    wait_until(lambda: engine.containers() == [])


def test_what_an_image_s_python_compiles_is_kept_as_the_host_s_own(engine: Engine, registry: Registry) -> None:
    command = ("python3", "-c", "import sys; sys.path.insert(0, '/app'); import part")
    with registry.client() as client:
        digest = push_image(client, 21, files={"app/part.py": b"VALUE = 1"}, command=command)
    assert engine.host.run("pull", digest=digest, compile=True).value["compiled"] >= 1
    (made,) = (engine.host.home / ".edge-training/serving/images").glob("*.chain/root/app/__pycache__/part.*.pyc")
    assert made.owner() == ACCOUNTS[engine.name]
    assert engine.host.run("pull", digest=digest).value["fetched_layers"] == 0


def test_an_image_is_deployed_replaced_and_stopped(engine: Engine, images: Images) -> None:
    port = free_port()
    assert engine.host.deploy("swapped", port, images[0], 1).error is None
    assert ask(port)[1]["version"] == "1"
    assert engine.host.deploy("swapped", port, images[1], 2).error is None
    assert ask(port)[1]["version"] == "2"
    assert ask(port, {"die": True, "data": []})[0] == 502
    assert ask(port)[1]["version"] == "2"
    assert engine.host.run("stop", name="swapped").value == {"stopped": True}
    wait_until(lambda: processes_of(engine.host) == [])


def test_a_served_model_has_no_network_no_rights_and_sees_nothing_of_the_host(engine: Engine, images: Images) -> None:
    assert engine.host.deploy("sealed", free_port(), images[0], 1).error is None
    (pid_file,) = (engine.host.home / ".edge-training/serving/d/sealed/r").glob("*/pid")
    inside = Path("/proc") / pid_file.read_text()
    status = dict(line.split(":\t", 1) for line in (inside / "status").read_text().splitlines())
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert "0" not in status["Uid"].split()
    assert [line.split(":")[0].strip() for line in (inside / "net/dev").read_text().splitlines()[2:]] == ["lo"]
    mounts = [line.split() for line in (inside / "mountinfo").read_text().splitlines()]
    assert "ro" in next(mount[5] for mount in mounts if mount[4] == "/").split(",")
    assert not Path(f"{inside}/root{engine.host.home}").exists()


def test_a_front_that_is_killed_takes_its_container_along(engine: Engine, images: Images) -> None:
    port = free_port()
    assert engine.host.deploy("killed", port, images[0], 1).error is None
    (before,) = engine.containers()
    (front,) = told_to(engine.host, "front")
    os.kill(front, signal.SIGKILL)
    wait_until(lambda: len(engine.containers()) == 1 and engine.containers() != [before])
    wait_until(lambda: answers(port))


def test_a_trial_that_is_killed_leaves_no_container(engine: Engine, images: Images) -> None:
    with engine.host.start("verify", digest=images[2], probe=probe(3), requests=100_000):
        # Not the container in which it finds out whether podman works: the one whose program can be asked.
        wait_until(lambda: list((engine.host.home / ".edge-training/serving/v").glob("*/s")) != [])
        assert len(engine.containers()) == 1
        (killed,) = told_to(engine.host, "verify")
        os.kill(killed, signal.SIGKILL)
    wait_until(lambda: engine.containers() == [])
    assert told_to(engine.host, "verify") == []


def test_an_account_that_can_make_no_sandbox_is_told_what_is_missing(registry: Registry, images: Images) -> None:
    need("podman")
    with tempfile.TemporaryDirectory(prefix="host-") as folder:
        host = make_host(registry, Path(folder), "daemon", "", broken=("bubblewrap", "runc"))
        error = host.run("verify", digest=images[0], probe=probe(1), requests=1).error
        end_pauses("daemon")
    assert (error["kind"], error["retryable"]) == ("sandbox", False)
    assert "bwrap does not work (no namespaces here)" in error["message"]
    assert "podman does not work" in error["message"]
    assert "/etc/subuid" in error["message"]
    assert "runc does not work (no namespaces here)" in error["message"]
