"""A script cannot reach the network, cannot see a credential, and cannot change what it was given: as root and as nobody."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.edge_run.conftest import lay_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.edge_run.blob_server import BlobServer
    from tests.integration.edge_run.conftest import Site

SAVE = "\nimport edge_context\nedge_context.save_model(b'\\x08\\x08:\\x00B\\x02\\x10\\x11', 'model.onnx')\n"
TRY = """
def attempt(what):
    try:
        print('result', what())
    except Exception as error:
        print('refused', type(error).__name__)
"""


@pytest.fixture(params=["ourselves", "nobody"])
def account(request: pytest.FixtureRequest, store: BlobServer, tmp_path: Path) -> Iterator[Site]:
    """The run's account: the one that runs the tests, and one that may do nothing."""
    if request.param == "ourselves":
        yield lay_out(store, tmp_path)
        return
    if os.geteuid() != 0:
        pytest.skip("only root can start a run as another account")
    folder = Path(tempfile.mkdtemp(prefix="edge-run-"))
    folder.chmod(0o755)
    try:
        yield lay_out(store, folder, pwd.getpwnam("nobody").pw_uid)
    finally:
        shutil.rmtree(folder)


def test_the_self_test_finds_every_way_out_closed(account: Site) -> None:
    outcome = account.run(SAVE)
    assert outcome.status == 0, outcome.log
    assert outcome.record["sandbox"] == {
        "kind": "bubblewrap",
        "self_test": dict.fromkeys(
            ["abstract_sockets", "connections", "environment", "hidden_files", "interfaces", "sealed_folders"], "closed"
        ),
    }


def test_a_script_cannot_open_a_connection(account: Site) -> None:
    port = account.store.server_address[1]
    before = len(account.store.requests)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0edge-run-test-{port}")
        listener.listen()
        outcome = account.run(
            TRY + "import socket\n"
            f"attempt(lambda: socket.create_connection(('127.0.0.1', {port}), 5))\n"
            "attempt(lambda: socket.create_connection(('192.0.2.1', 443), 5))\n"
            "attempt(lambda: socket.getaddrinfo('example.com', 443))\n"
            "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53)))\n"
            "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))\n"
            f"attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0edge-run-test-{port}'))\n" + SAVE
        )
    assert "result" not in outcome.log
    assert outcome.log.count("refused") == 6
    assert len(account.store.requests) - before == len(account.store.blobs)


def test_a_script_sees_neither_token_nor_variables_of_the_run(account: Site) -> None:
    fingerprint = account.write_grant()["fingerprint"]
    account.write_script(
        "import os, pathlib\n"
        "seen = ' '.join(path.read_bytes().decode('utf-8', 'replace') for path in pathlib.Path('/proc').glob('[0-9]*/environ')"
        " if os.access(path, os.R_OK))\n"
        "print('found' if 'tok3n' in seen + str(dict(os.environ)) else 'clean')\n" + SAVE
    )
    outcome = account.start(fingerprint, environment={"AZUREML_RUN_TOKEN": "tok3n", "MSI_SECRET": "tok3n"})
    assert "script | clean" in outcome.log


def test_a_script_cannot_read_the_grant_the_home_or_the_snapshot(account: Site) -> None:
    (account.home / "private").write_text("private")
    outcome = account.run(
        TRY + "import os\n"
        f"attempt(lambda: open({str(account.grant)!r}).read())\n"
        f"attempt(lambda: open({str(account.home / 'private')!r}).read())\n"
        f"attempt(lambda: os.listdir({str(account.snapshot)!r}))\n"
        "attempt(lambda: os.listdir('/home'))\n"
        "attempt(lambda: open('/etc/shadow').read())\n" + SAVE
    )
    assert "result" not in outcome.log
    assert outcome.log.count("refused FileNotFoundError") == 5


def test_a_script_cannot_change_data_code_or_system(account: Site) -> None:
    outcome = account.run(
        TRY + "import edge_context, os, subprocess\n"
        "path = edge_context.data_files()[0]\n"
        "attempt(lambda: path.write_text('x'))\n"
        "attempt(path.unlink)\n"
        "attempt(lambda: path.chmod(0o777))\n"
        "attempt(lambda: open(__file__, 'w'))\n"
        "attempt(lambda: open(edge_context.__file__, 'w'))\n"
        "attempt(lambda: open('/usr/planted', 'w'))\n"
        "attempt(lambda: os.mkdir('/planted'))\n"
        "attempt(lambda: subprocess.run(['mount', '-o', 'remount,rw', '/edge/data'], check=True, stderr=subprocess.DEVNULL))\n"
        "attempt(lambda: subprocess.run(['unshare', '-r', 'true'], check=True, stderr=subprocess.DEVNULL))\n" + SAVE
    )
    assert "result" not in outcome.log
    assert outcome.log.count("refused") == 9


def test_a_script_sees_no_process_but_its_own(account: Site) -> None:
    outcome = account.run(
        "import os\nprint(len([p for p in os.listdir('/proc') if p.isdigit()]), 'processes')\n" + SAVE
    )
    assert "script | 2 processes" in outcome.log


def test_a_script_has_room_of_its_own_to_write(account: Site) -> None:
    outcome = account.run(
        "import os, pathlib, tempfile\n"
        "for folder in (os.environ['HOME'], tempfile.gettempdir(), '/dev/shm'):\n"
        "    pathlib.Path(folder, 'file').write_text('x')\n" + SAVE
    )
    assert outcome.status == 0, outcome.log


def test_a_background_process_does_not_outlive_the_run(account: Site) -> None:
    mark = f"98765.{account.store.server_address[1]}"
    outcome = account.run(
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep({mark})'], start_new_session=True)\n" + SAVE
    )
    assert outcome.status == 0, outcome.log
    assert not [command for command in _commands() if mark in command]


def _commands() -> Iterator[str]:
    """Yield the command line of every process of this machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().decode("utf-8", "replace")


def test_limits_hold(account: Site) -> None:
    outcome = account.run(
        TRY + "import os, resource\n"
        "attempt(lambda: bytearray(400_000_000))\n"
        "attempt(lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))\n"
        "import signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "attempt(lambda: open(os.environ['HOME'] + '/big', 'wb').write(bytes(2_000_000)))\n" + SAVE,
        policy={"memory_bytes": 300_000_000, "file_bytes": 1_000_000},
    )
    assert "result" not in outcome.log
    assert [line.split()[-1] for line in outcome.log.splitlines() if "refused" in line] == [
        "MemoryError",
        "ValueError",
        "OSError",
    ]


def _as_if(change: str) -> list[str]:
    """Return how to start a run after a change that only it sees."""
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{change} && exec "$@"', "sh"]


def test_without_bubblewrap_nothing_runs_and_the_line_to_install_it_is_given(site: Site) -> None:
    site.write_script("print('never')\n")
    fingerprint = site.write_grant()["fingerprint"]
    outcome = site.start(fingerprint, before=_as_if('mount --bind /dev/null "$(command -v bwrap)"'))
    assert outcome.status == 1
    assert "Sandbox: The VM has no bubblewrap" in outcome.log
    assert "apt-get install bubblewrap" in outcome.log
    assert "never" not in outcome.log


def test_a_bubblewrap_that_cannot_make_a_sandbox_starts_nothing_and_repeats_its_complaint(site: Site) -> None:
    site.write_script("print('never')\n")
    fingerprint = site.write_grant()["fingerprint"]
    outcome = site.start(fingerprint, before=_as_if("echo 0 > /proc/sys/user/max_net_namespaces"))
    assert outcome.status == 1
    assert "Sandbox: bubblewrap could not make the sandbox: bwrap: " in outcome.log
    assert "The VM must allow user namespaces" in outcome.log
    assert "never" not in outcome.log
    assert site.remains == []


def test_a_sandbox_with_a_hole_is_found_out_before_the_script_starts(site: Site, tmp_path: Path) -> None:
    """A bubblewrap that shares the network stands in for whatever might go wrong with a sandbox."""
    leaky = tmp_path / "bin" / "bwrap"
    leaky.parent.mkdir()
    leaky.write_text('#!/bin/sh\nfirst=$1; shift; exec /usr/bin/bwrap "$first" --share-net "$@"\n')
    leaky.chmod(0o755)
    site.write_script("print('never')\n")
    fingerprint = site.write_grant()["fingerprint"]
    outcome = site.start(fingerprint, environment={"PATH": f"{leaky.parent}:/usr/bin:/bin"})
    assert outcome.status == 1
    assert "Sandbox: The bubblewrap sandbox does not hold, so the script was not started" in outcome.log
    assert outcome.record["sandbox"]["self_test"]["connections"].startswith("open")
    assert outcome.record["sandbox"]["self_test"]["abstract_sockets"].startswith("open")
    assert "never" not in outcome.log
    assert site.remains == []
