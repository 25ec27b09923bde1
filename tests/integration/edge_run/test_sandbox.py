"""A script cannot reach the network, see a credential, or change what it was given: in each kind of sandbox, as root and as nobody."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_run.sandbox import KINDS
from edge_run.sandboxes import seccomp
from tests.integration.edge_run.conftest import lay_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.edge_run.blob_server import BlobServer
    from tests.integration.edge_run.conftest import Site

SAVE = "\nimport edge_context\nedge_context.save_model(b'\\x08\\x08:\\x00B\\x02\\x10\\x11', 'model.onnx')\n"
CHECKS = [
    *(
        "abstract_sockets",
        "connections",
        "environment",
        "hidden_files",
        "interfaces",
        "other_processes",
        "sealed_folders",
    ),
]
TRY = """
def attempt(what):
    try:
        print('result', what())
    except Exception as error:
        print('refused', type(error).__name__)
"""


# The last two come into only what differs for root: whose files they are, and what it may do.
ACCOUNTS = ["bubblewrap ourselves", *(f"{kind} nobody" for kind in KINDS)]
EVERY_ACCOUNT = [*ACCOUNTS, "namespaces ourselves", "seccomp ourselves"]


@pytest.fixture(params=ACCOUNTS)
def account(request: pytest.FixtureRequest, store: BlobServer, tmp_path: Path) -> Iterator[Site]:
    """The run's account: the one that runs the tests, or one that may do nothing; and the kind of sandbox that its policy demands."""
    kind, who = request.param.split()
    if who == "ourselves":
        yield replace(lay_out(store, tmp_path), sandbox=kind)
        return
    if os.geteuid() != 0:
        pytest.skip("only root can start a run as another account")
    folder = Path(tempfile.mkdtemp(prefix="edge-run-"))
    folder.chmod(0o755)
    try:
        yield replace(lay_out(store, folder, pwd.getpwnam("nobody").pw_uid), sandbox=kind)
    finally:
        shutil.rmtree(folder)


for_every_account = pytest.mark.parametrize("account", EVERY_ACCOUNT, indirect=True)


@for_every_account
def test_the_self_test_finds_every_way_out_closed(account: Site) -> None:
    outcome = account.run(SAVE)
    assert outcome.status == 0, outcome.log
    assert outcome.record["sandbox"] == {
        "kind": account.sandbox,
        "self_test": dict.fromkeys(CHECKS, "closed"),
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
        " if path.parent.name == str(os.getpid()))\n"
        "print('found' if 'tok3n' in seen + str(dict(os.environ)) else 'clean')\n" + SAVE
    )
    outcome = account.start(fingerprint, environment={"AZUREML_RUN_TOKEN": "tok3n", "MSI_SECRET": "tok3n"})
    assert "script | clean" in outcome.log


@for_every_account
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
    # Landlock keeps files shut; only in a file system of its own they do not exist.
    assert outcome.log.count("refused FileNotFoundError") == (0 if account.sandbox == "seccomp" else 5)
    assert outcome.log.count("refused") == 5


@for_every_account
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
        TRY + "import os\n"
        "attempt(lambda: len([p for p in os.listdir('/proc') if p.isdigit()]))\n"
        f"attempt(lambda: os.kill({os.getpid()}, 0))\n"
        f"attempt(lambda: open('/proc/{os.getpid()}/environ').read())\n" + SAVE
    )
    seen = ["refused PermissionError"] if account.sandbox == "seccomp" else ["result 2"]
    said = [
        line.removeprefix("script | ") for line in outcome.log.splitlines() if "result" in line or "refused" in line
    ]
    assert said[:1] == seen
    assert [line.split()[0] for line in said[1:]] == ["refused", "refused"]


def test_a_script_has_room_of_its_own_to_write(account: Site) -> None:
    shared = [] if account.sandbox == "seccomp" else ["/dev/shm"]  # the VM's own is everybody's
    outcome = account.run(
        "import os, pathlib, tempfile\n"
        f"for folder in (os.environ['HOME'], tempfile.gettempdir(), *{shared}):\n"
        "    pathlib.Path(folder, 'file').write_text('x')\n" + SAVE
    )
    assert outcome.status == 0, outcome.log


def test_a_background_process_does_not_outlive_the_run(account: Site) -> None:
    mark = f"98765.{account.store.server_address[1]}"
    outcome = account.run(
        TRY + "import os, sys\n"
        "if os.fork() == 0:\n"
        "    attempt(os.setsid)\n"
        "    if os.fork() == 0:\n"
        f"        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep({mark})'])\n"
        "    os._exit(0)\n"
        "os.wait()\n" + SAVE
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


AROUND_THE_FILTER = """
import ctypes, errno, mmap, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    return errno.errorcode.get(ctypes.get_errno(), 'done') if libc.syscall(*map(ctypes.c_long, arguments)) < 0 else 'done'
answers = {number: call(number, -1, -1, -1, -1, -1) for number in NUMBERS}
print('open', [number for number, answer in answers.items() if answer != 'EPERM'])
print('clone', [call(56, 1 << bit | 17, 0, 0, 0, 0) for bit in (17, 25, 26, 27, 28, 29, 30)], call(435, 0, 0))
print('newer', call(452, -100, 0, 0), call(463, 0), call(0x40000000 | 39))
print('limits', call(302, os.getppid(), 7, 0, 0), call(302, 0, 7, 0, 0))
print('pairs', call(53, 1, 2, 0, 0), call(53, 1, 2 | 0o2000000, 0, 0), [one.send(b'x') for one in socket.socketpair()])
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex('b814000000cd80c3'))  # getpid, asked for as a program of 32 bits does
if os.fork() == 0:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    os._exit(0)
print('32 bits', os.WTERMSIG(os.wait()[1]))
"""


def test_no_system_call_leads_around_the_filter(site: Site) -> None:
    site.sandbox = "seccomp"
    numbers = sorted(seccomp.REFUSED.values())
    outcome = site.run(AROUND_THE_FILTER.replace("NUMBERS", str(numbers)) + SAVE)
    said = [line.removeprefix("script | ") for line in outcome.log.splitlines() if line.startswith("script | ")]
    assert said[1:-1] == [
        "open []",
        f"clone {['EPERM'] * 7} ENOSYS",
        "newer ENOSYS ENOSYS ENOSYS",
        "limits EPERM done",
        "pairs EPERM EPERM [1, 1]",
        "32 bits 31",
    ], outcome.log


def _as_if(change: str) -> list[str]:
    """Return how to start a run after a change that only it sees."""
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{change} && exec "$@"', "sh"]


NO_BUBBLEWRAP = 'mount --bind /dev/null "$(command -v bwrap)"'
NO_NAMESPACES = "echo 0 > /proc/sys/user/max_net_namespaces"


@pytest.mark.parametrize(("change", "kind"), [(NO_BUBBLEWRAP, "namespaces"), (NO_NAMESPACES, "seccomp")])
def test_the_best_kind_that_the_machine_can_make_is_used(site: Site, change: str, kind: str) -> None:
    site.write_script(SAVE)
    fingerprint = site.write_grant()["fingerprint"]
    outcome = site.start(fingerprint, before=_as_if(change))
    assert outcome.status == 0, outcome.log
    assert outcome.record["sandbox"] == {"kind": kind, "self_test": dict.fromkeys(CHECKS, "closed")}
    assert f"train.py starts in {kind}" in outcome.log


@pytest.mark.parametrize("demanded", ["", "namespaces"])
def test_without_a_sandbox_nothing_runs_and_it_is_said_why_and_what_to_install(site: Site, demanded: str) -> None:
    site.sandbox = demanded
    site.write_script("print('never')\n")
    fingerprint = site.write_grant()["fingerprint"]
    # To a program that asks for the machine's kind, this is another one, for which there is no filter.
    outcome = site.start(fingerprint, before=["setarch", "i686", *_as_if(NO_NAMESPACES)])
    assert outcome.status == 1
    assert "Sandbox: The VM can make no sandbox" in outcome.log
    assert "namespaces: no new namespaces: No space left on device" in outcome.log
    assert ("seccomp: the filter of system calls is for x86_64" in outcome.log) == (not demanded)
    assert ("the policy demands namespaces" in outcome.log) == bool(demanded)
    assert "apt-get install bubblewrap" in outcome.log
    assert "never" not in outcome.log
    assert outcome.record["sandbox"] == {"kind": "", "self_test": {}}
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
