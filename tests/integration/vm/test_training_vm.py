from __future__ import annotations

import getpass
import os
import shlex
import socket
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ComputeError, ConfigurationError
from edge_training.hooks.ssh_keys import parse_host_key
from edge_training.hooks.training_vm import TrainingVMHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.vm.conftest import OwnSshd

Connect = Callable[[dict[str, Any]], TrainingVMHook]
STRONG = "correct Horse 7 battery"


def with_extra(fields: dict[str, Any], **extra: str) -> dict[str, Any]:
    return fields | {"extra": {**fields["extra"], **extra}}


def failure(hook: TrainingVMHook, kind: type[Exception] = ComputeError) -> str:
    with pytest.raises(kind) as caught:
        hook.run("true")
    return str(caught.value)


def test_a_command_gives_its_status_and_output(vm: TrainingVMHook) -> None:
    result = vm.run("cat; echo oops >&2; exit 3", stdin=b"hello")
    assert (result.status, result.stdout, result.stderr) == (3, "hello", "oops\n")


def test_much_output_and_input_pass_whole(vm: TrainingVMHook) -> None:
    content = bytes(range(97, 123)) * 40_000
    assert vm.run("cat", stdin=content).stdout.encode() == content


def test_endless_output_is_broken_off(vm: TrainingVMHook) -> None:
    with pytest.raises(ComputeError, match="printed too much"):
        vm.run("yes")


def test_a_command_that_does_not_read_its_input_still_gives_its_status(vm: TrainingVMHook) -> None:
    assert vm.run("exit 7", stdin=b"x" * (1 << 20)).status == 7


def test_the_account_is_neither_root_nor_elsewhere_than_at_home(vm: TrainingVMHook) -> None:
    assert vm.home() == vm.run('printf %s "$HOME"').stdout
    assert vm.home().startswith("/")


def test_a_command_that_takes_too_long_is_ended_on_the_vm_too(
    own_fields: dict[str, Any], connect: Connect, tmp_path: Path
) -> None:
    hook = connect(own_fields)
    pids = tmp_path / "pids"
    with pytest.raises(ComputeError, match="did not finish a command within 1 s; it was ended there"):
        hook.run(f"sleep 300 & echo $$ $! >{pids}; wait", timeout_seconds=1)
    for pid in pids.read_text().split():
        assert not _alive(int(pid))


def test_a_command_that_ignores_its_end_is_killed(vm: TrainingVMHook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_training.hooks.training_vm._KILL_AFTER_SECONDS", 1)
    with pytest.raises(ComputeError, match="did not finish a command within 1 s"):
        vm.run("trap '' TERM; while :; do sleep 0.1; done", timeout_seconds=1)


def test_a_command_that_somebody_kills_gives_its_status(vm: TrainingVMHook) -> None:
    assert vm.run("kill -9 $$").status == 137


def _alive(pid: int) -> bool:
    """Tell whether a process still runs; one that was ended may need a moment to be gone."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_a_connection_that_breaks_while_a_command_runs_is_told(own_fields: dict[str, Any], connect: Connect) -> None:
    hook = connect(own_fields)
    with pytest.raises(ComputeError, match="lost the connection while a command ran"):
        # Above `timeout` stands the login shell, and above that sshd's process for this connection.
        hook.run("shell=$(cut -d ' ' -f 4 /proc/$PPID/stat); kill -9 $(cut -d ' ' -f 4 /proc/$shell/stat); sleep 30")
    assert hook.run("echo again").stdout == "again\n"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("form", ["key", "fingerprint"])
def test_a_pinned_host_key_of_each_type_is_found(
    kind: str, form: str, own_sshd: OwnSshd, own_fields: dict[str, Any], connect: Connect
) -> None:
    pin = own_sshd.host_key(kind)
    if form == "fingerprint":
        pin = parse_host_key(pin, "training_vm").fingerprint
    assert connect(with_extra(own_fields, host_key=pin)).run("echo in").stdout == "in\n"


@pytest.mark.parametrize("form", ["key", "fingerprint"])
def test_another_machine_gets_no_credential_and_both_fingerprints_are_told(
    form: str, own_sshd: OwnSshd, own_fields: dict[str, Any], connect: Connect
) -> None:
    other = (own_sshd.folder / "client.pub").read_text()
    pinned = parse_host_key(other, "training_vm").fingerprint
    shown = parse_host_key(own_sshd.host_key("ed25519"), "training_vm").fingerprint
    logins = (own_sshd.folder / "log").read_text().count("Accepted")
    text = failure(connect(with_extra(own_fields, host_key=other if form == "key" else pinned)))
    assert f"shows host key {shown}, pinned is {pinned}" in text
    assert "change extra host_key of connection 'training_vm'" in text
    assert (own_sshd.folder / "log").read_text().count("Accepted") == logins


def test_a_connection_without_pinned_host_key_is_refused(own_fields: dict[str, Any], connect: Connect) -> None:
    text = failure(connect(own_fields | {"extra": {"key_file": own_fields["extra"]["key_file"]}}), ConfigurationError)
    assert "'training_vm' lacks 'host_key'" in text


def test_a_key_is_taken_as_text_and_with_its_passphrase(
    own_sshd: OwnSshd, own_fields: dict[str, Any], connect: Connect
) -> None:
    fields = own_fields | {"extra": {"host_key": own_sshd.host_key("ed25519"), "private_key_passphrase": "open sesame"}}
    hook = connect(with_extra(fields, private_key=(own_sshd.folder / "locked").read_text()))
    assert hook.run("echo in").stdout == "in\n"
    with hook.private_key_file() as path:
        assert path is not None
        assert Path(path).stat().st_mode & 0o777 == 0o600
        assert Path(path).read_text().strip() == (own_sshd.folder / "locked").read_text().strip()
    assert not Path(path).exists()


def test_a_user_that_the_vm_does_not_know_is_refused(own_fields: dict[str, Any], connect: Connect) -> None:
    text = failure(connect(own_fields | {"login": "no-such-user"}))
    assert "refused the key of user 'no-such-user'" in text
    assert "authorized_keys" in text


def test_a_key_that_the_vm_does_not_know_is_refused(
    own_sshd: OwnSshd, own_fields: dict[str, Any], connect: Connect
) -> None:
    text = failure(connect(with_extra(own_fields, key_file=str(own_sshd.folder / "host_rsa"))))
    assert f"refused the key of user '{getpass.getuser()}'" in text


def test_a_password_that_the_vm_does_not_accept_is_refused_and_not_shown(
    own_fields: dict[str, Any], connect: Connect
) -> None:
    hook = connect(own_fields | {"password": STRONG, "extra": {"host_key": own_fields["extra"]["host_key"]}})
    with pytest.raises(ComputeError, match="refused the password of user") as caught:
        hook.run("true")
    assert STRONG not in "".join(traceback.format_exception(caught.value))


def test_a_weak_password_is_refused_before_it_is_sent(own_fields: dict[str, Any], connect: Connect) -> None:
    fields = own_fields | {"password": "Passw0rd!", "extra": {"host_key": own_fields["extra"]["host_key"]}}
    text = failure(connect(fields), ConfigurationError)
    assert "too weak" in text
    assert "fewer than 14 characters" in text
    assert "Passw0rd!" not in text


@pytest.mark.parametrize("credentials", ["none", "both"])
def test_exactly_one_credential_is_needed(credentials: str, own_fields: dict[str, Any], connect: Connect) -> None:
    fields = own_fields | {"password": STRONG}
    if credentials == "none":
        fields = own_fields | {"extra": {"host_key": own_fields["extra"]["host_key"]}}
    assert "exactly one of password, extra key_file and extra private_key" in failure(
        connect(fields), ConfigurationError
    )


def test_a_vm_that_is_down_is_told(own_fields: dict[str, Any], connect: Connect) -> None:
    text = failure(connect(own_fields | {"port": 1}))
    assert "cannot be reached: the connection was refused" in text
    assert f"{getpass.getuser()}@127.0.0.1:1 (connection 'training_vm')" in text


def test_a_host_name_that_dns_does_not_know_is_told(own_fields: dict[str, Any], connect: Connect) -> None:
    assert "unknown to DNS" in failure(connect(own_fields | {"host": "vm.hub.invalid"}))


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Give a server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_a_server_that_says_nothing_is_given_up(
    silent: socket.socket, own_fields: dict[str, Any], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingVMHook, "CONNECT_SECONDS", 1)
    assert "did not answer as an SSH server" in failure(connect(own_fields | {"port": silent.getsockname()[1]}))


def test_a_port_that_is_not_sshs_is_told(
    local_site: Any, own_fields: dict[str, Any], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingVMHook, "CONNECT_SECONDS", 2)
    port = int(local_site.env["LOCAL_SITE_BLOB_ENDPOINT"].rsplit(":", 1)[1].split("/")[0])
    assert "is this sshd's port?" in failure(connect(own_fields | {"port": port}))


def test_a_file_is_written_for_the_account_alone_and_replaced_whole(vm: TrainingVMHook) -> None:
    path = f"{vm.home()}/.edge-training/trial folder/it's.json"
    quoted = shlex.quote(path)
    try:
        vm.put_file(b"x" * 300_000, path)
        vm.put_file(b"\x00\xffnew", path, mode=0o400)
        assert vm.run(f"stat -c %a {quoted}; od -An -tx1 {quoted}").stdout.split() == [
            "400",
            "00",
            "ff",
            "6e",
            "65",
            "77",
        ]
        assert vm.run(f"cd {shlex.quote(path.rsplit('/', 1)[0])} && stat -c %a . && ls -A").stdout == "700\nit's.json\n"
        assert vm.remove(path) is True
        assert vm.remove(path) is False
    finally:
        vm.run(f"rm -rf {shlex.quote(path.rsplit('/', 1)[0])}")


def test_a_relative_path_is_refused(vm: TrainingVMHook) -> None:
    with pytest.raises(ConfigurationError, match="absolute path, found '~/x'"):
        vm.put_file(b"", "~/x")


def test_a_place_that_may_not_be_written_is_told(vm: TrainingVMHook) -> None:
    if vm.run("id -u").stdout == "0\n":
        pytest.skip("root may write everywhere")
    with pytest.raises(ComputeError, match="could not write '/proc/x/file': "):
        vm.put_file(b"x", "/proc/x/file")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 64 KiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_is_told_and_nothing_half_written_stays(
    full_disk: Path, own_fields: dict[str, Any], connect: Connect
) -> None:
    hook = connect(own_fields)
    hook.put_file(b"old", str(full_disk / "grant.json"))
    with pytest.raises(ComputeError, match="No space left on device"):
        hook.put_file(b"x" * 100_000, str(full_disk / "grant.json"))
    assert [path.name for path in full_disk.iterdir()] == ["grant.json"]
    assert (full_disk / "grant.json").read_bytes() == b"old"


def test_the_vm_is_measured(vm: TrainingVMHook) -> None:
    found = vm.measure("~/training-env/bin/python", "~/runs/not/made/yet")
    assert found.cpus == int(vm.run("nproc").stdout)
    assert found.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.disk_free_bytes > 0
    assert found.python == f"{vm.home()}/training-env/bin/python"
    assert found.python_version.startswith("3.11.")
    assert (found.bwrap, found.bwrap_error, found.clock_skew_seconds) == ("/usr/bin/bwrap", "", 0.0)
    assert found.other_sandbox == "namespaces"


def test_an_interpreter_that_is_missing_is_measured_as_such(vm: TrainingVMHook) -> None:
    found = vm.measure("~/no-such-env/bin/python")
    assert (found.python, found.python_version) == (f"{vm.home()}/no-such-env/bin/python", "")


def test_an_interpreter_is_also_found_by_its_name(vm: TrainingVMHook) -> None:
    assert vm.measure("python3").python == vm.run("command -v python3").stdout.strip()


def test_the_blob_store_is_reached_from_the_vm_whatever_it_answers(vm: TrainingVMHook, local_site: Any) -> None:
    ca_pem = Path(local_site.env["LOCAL_SITE_CA"]).read_text()
    assert 400 <= vm.reach(local_site.env["LOCAL_SITE_BLOB_ENDPOINT"], ca_pem) < 500


def test_why_the_blob_store_is_not_reached_is_told(vm: TrainingVMHook, local_site: Any) -> None:
    ca_pem = Path(local_site.env["LOCAL_SITE_CA"]).read_text()
    endpoint, ssh = local_site.env["LOCAL_SITE_BLOB_ENDPOINT"], local_site.env["LOCAL_SITE_VM_PORT"]
    for url, pem, words in (
        (endpoint, "", "does not trust its certificate .* extra ca_certificate"),
        ("https://acct.blob.hub.invalid", ca_pem, "DNS does not know the host"),
        ("https://127.0.0.1:1/acct", ca_pem, "nothing listens there"),
        (f"https://127.0.0.1:{ssh}/acct", ca_pem, "does not speak TLS"),
    ):
        with pytest.raises(ComputeError, match=f"cannot reach {url}: .*{words}"):
            vm.reach(url, pem)


def test_a_blob_store_that_says_nothing_is_told(vm: TrainingVMHook, silent: socket.socket) -> None:
    url = f"https://127.0.0.1:{silent.getsockname()[1]}/acct"
    with pytest.raises(ComputeError, match="no answer came in time"):
        vm.reach(url, timeout_seconds=1)


def test_a_missing_interpreter_is_told_when_it_should_reach_something(vm: TrainingVMHook) -> None:
    with pytest.raises(ComputeError, match=r"could not ask for https://x/: .*no-such-python"):
        vm.reach("https://x/", python="no-such-python")
