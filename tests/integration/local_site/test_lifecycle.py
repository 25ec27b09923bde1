"""Starting and ending a local site, with all that can go wrong in between."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local_site import blobs, processes
from local_site.credentials import Credentials
from local_site.settings import PROJECT
from tests.running_site import RunningSite

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 10.0


@pytest.fixture
def site() -> Iterator[RunningSite]:
    """Yield a site that is not running yet. Its folder has an awkward name."""
    with tempfile.TemporaryDirectory(prefix="local site ") as folder:
        site = RunningSite.on_free_ports(Path(folder) / "site")
        try:
            yield site
        finally:
            site.command("down")


def _pids(site: RunningSite) -> dict[str, int | None]:
    return {name: processes.running(name, site.settings.pids) for name in ("blob", "vm", "registry", "azure-ml")}


def test_up_twice_leaves_everything_as_it_is(site: RunningSite) -> None:
    site.up("vm", "registry")
    before = (_pids(site), site.env)
    site.up("vm", "registry")
    assert (_pids(site), site.env) == before


def test_down_ends_exactly_what_was_started(site: RunningSite) -> None:
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        try:
            site.up("vm", "blob")
            assert site.command("status").returncode == 3
            done = site.command("down")
            assert done.stdout == "Ended: blob, vm.\n"
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert not any(processes.listening(port) for port in (site.settings.ssh_port, site.settings.blob_port))
    assert set(_pids(site).values()) == {None}
    assert site.command("down").stdout == "The local site was not running.\n"


def test_a_job_that_was_left_on_the_vm_ends_with_it(site: RunningSite) -> None:
    site.up("vm")
    mark = f"sleep 31{os.getpid()}"
    site.ssh(f"setsid nohup {mark} >/dev/null 2>&1 &")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while mark not in _all_command_lines():
        assert time.monotonic() < deadline, "the job was never started"
        time.sleep(0.05)
    site.command("down")
    assert mark not in _all_command_lines()


def _all_command_lines() -> str:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            lines.append(path.read_text().replace("\0", " "))
    return "\n".join(lines)


def test_a_service_that_was_killed_comes_back_with_its_state(site: RunningSite) -> None:
    site.up("registry", "vm")
    before = _pids(site)
    assert before["registry"]
    os.kill(before["registry"], signal.SIGKILL)
    site.up("registry", "vm")
    after = _pids(site)
    assert after["registry"] not in (None, before["registry"])
    assert after["vm"] == before["vm"]


def test_a_killed_storage_comes_back_with_all_blobs(site: RunningSite) -> None:
    site.up("blob")
    pid = _pids(site)["blob"]
    assert pid
    os.kill(pid, signal.SIGKILL)
    site.up("blob")
    with blobs.container(site.settings, Credentials.read(site.settings.state)) as container:
        assert len(list(container.list_blobs("breast-cancer/"))) == 13


def test_a_busy_port_is_named_with_its_setting_and_nothing_is_left_half_started(site: RunningSite) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.settings.ssh_port))
        other.listen()
        done = site.command("up", "--only", "registry,vm")
    assert done.returncode == 2
    assert f"Port {site.settings.ssh_port} on 127.0.0.1, which vm needs" in done.stderr
    assert "LOCAL_SITE_SSH_PORT" in done.stderr
    assert set(_pids(site).values()) == {None}
    site.up("registry", "vm")


def test_a_service_that_cannot_start_shows_its_log_and_takes_what_was_started_with_it(site: RunningSite) -> None:
    Credentials.ensure(site.settings.state)
    (site.settings.vm / "host_key").write_text("no key\n")
    done = site.command("up", "--only", "registry,vm")
    assert done.returncode == 2
    assert "vm ended while it was being started" in done.stderr
    assert "no hostkeys available" in done.stderr
    assert set(_pids(site).values()) == {None}


def test_a_folder_that_cannot_be_written_is_an_error_in_one_line(site: RunningSite) -> None:
    site.settings.state.parent.joinpath("site").write_text("a file where the state folder should be")
    done = site.command("up", "--only", "vm")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert str(site.settings.state) in done.stderr
    assert done.stderr.count("\n") == 1


def test_another_port_moves_only_the_service_that_has_it(site: RunningSite) -> None:
    site.up("registry", "vm")
    before = _pids(site)
    old = site.settings.registry_port
    moved = RunningSite({**site.variables, "LOCAL_SITE_REGISTRY_PORT": str(site.settings.azure_ml_port)})
    moved = RunningSite({**moved.variables, "LOCAL_SITE_AZURE_ML_PORT": str(old)})
    moved.up("registry", "vm")
    assert _pids(moved)["vm"] == before["vm"]
    assert processes.listening(moved.settings.registry_port)
    assert not processes.listening(old)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_start_can_simply_be_run_again(site: RunningSite, number: signal.Signals) -> None:
    argv = [sys.executable, "-m", "local_site", "up", "--only", "blob,vm,registry"]
    with subprocess.Popen(
        argv, cwd=PROJECT, env=site.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _wait_until_something_was_started(site)
        process.send_signal(number)
    assert process.returncode != 0
    if number == signal.SIGINT:
        assert set(_pids(site).values()) == {None}
    site.up("blob", "vm", "registry")
    assert site.command("down").stdout == "Ended: blob, vm, registry.\n"


def _wait_until_something_was_started(site: RunningSite) -> None:
    deadline = time.monotonic() + 30
    while not list(site.settings.pids.glob("[!.]*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_starts_at_once_make_one_site(site: RunningSite) -> None:
    argv = [sys.executable, "-m", "local_site", "up", "--only", "vm,registry"]
    both = [
        subprocess.Popen(argv, cwd=PROJECT, env=site.environment(), stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    tables = [[line for line in output.splitlines() if "process" in line] for output in outputs]
    assert tables[0] == tables[1]


def test_the_state_survives_a_restart(site: RunningSite) -> None:
    site.up("vm")
    env = site.env
    site.ssh("echo kept > ~/file")
    site.command("down")
    site.up("vm")
    assert site.env == env
    assert site.ssh("cat ~/file").stdout == "kept\n"


def test_the_record_of_a_process_names_it_for_other_programs(site: RunningSite) -> None:
    site.up("vm")
    record = json.loads((site.settings.pids / "vm.json").read_text())
    assert record["pid"] == _pids(site)["vm"]
    assert record["port"] == site.settings.ssh_port
