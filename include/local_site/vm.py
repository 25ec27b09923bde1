"""The training VM of the site: OpenSSH's server, and behind it an account that can do nothing but train.

Started as root, the server has mount and process namespaces of its own, so that it is like another machine: the account
sees neither the project nor anybody's home nor any process of the host, and when the VM is ended everything on it ends.
Otherwise it is the caller's own account with another home directory, and `Machine.remark` says so.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_site import files
from local_site.errors import MissingToolError, PreparationError
from local_site.probes import answers_ssh
from local_site.processes import Service
from local_site.settings import PROJECT, VM_ACCOUNT

if TYPE_CHECKING:
    from local_site.credentials import Credentials
    from local_site.settings import Settings

SSHD = Path("/usr/sbin/sshd")
HOME = Path("/home") / VM_ACCOUNT

_NAMESPACES = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")
# Where the namespaces' own sshd finds its files; see vm_machine.sh.
_INSIDE = Path("/run/training-vm")

_SSHD_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey "{host_key}"
AuthorizedKeysFile "{authorized_keys}"
PidFile none
AllowUsers {account}
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
PermitEmptyPasswords no
UsePAM no
UseDNS no
DisableForwarding yes
PrintMotd no
PrintLastLog no
StrictModes {strict}
# The pipeline, the Azure ML server and a person may all log in at the same moment.
MaxStartups 100
MaxSessions 100
LoginGraceTime 20
ClientAliveInterval 30
LogLevel INFO
Subsystem sftp internal-sftp
{extra}"""


@dataclass(frozen=True)
class Machine:
    """How much of a machine of its own the VM can be here.

    :param isolated: It has namespaces of its own, in which HOME is the account's home.
    :param remark: What a person has to know about it, or nothing.
    """

    isolated: bool
    remark: str

    @classmethod
    def possible(cls, settings: Settings) -> Machine:
        """Find out what this machine allows.

        :param settings: The settings of the site.
        """
        if os.geteuid() != 0:
            return cls(
                isolated=False,
                remark=f"not started as root, so the training VM is your own account {settings.vm_account} "
                f"with the home directory {settings.vm / 'home'}: it sees your files",
            )
        probe = subprocess.run([*_NAMESPACES, "true"], capture_output=True, text=True, check=False)
        if probe.returncode == 0:
            return cls(isolated=True, remark="")
        return cls(
            isolated=False,
            remark=f"this machine allows no mount namespace ({probe.stderr.strip()}), so the training VM is only an "
            f"account of its own, {VM_ACCOUNT}: it sees the files of this machine that are readable by all",
        )


def service(settings: Settings, machine: Machine, training_env: Path) -> Service:
    """Describe the training VM as a background process.

    :param settings: The settings of the site.
    :param machine: How much of a machine of its own it can be.
    :param training_env: The virtual environment for training scripts.
    :raises MissingToolError: There is no SSH server or no bubblewrap.
    """
    for program, package in ((SSHD, "openssh-server"), ("bwrap", "bubblewrap")):
        if shutil.which(program) is None:
            raise MissingToolError(f"{program} is missing, of Debian's package {package}. Install it with: bin/setup")
    if machine.isolated:
        script = Path(__file__).with_name("vm_machine.sh")
        hidden = {PROJECT, settings.state, settings.cache, Path(sys.prefix)}
        argv = [*_NAMESPACES, "/bin/sh", str(script), str(settings.vm), str(HOME), str(training_env)]
        argv += sorted(map(str, hidden))
    else:
        # -I: without this folder on the module path.
        argv = [sys.executable, "-I", str(Path(__file__).with_name("subreaper.py"))]
        argv += [str(SSHD), "-r", "-D", "-e", "-f", str(settings.vm / "sshd_config")]
    return Service(
        name="vm",
        argv=tuple(argv),
        env={},
        cwd=settings.state,
        log=settings.logs / "vm.log",
        ready=lambda: answers_ssh(settings.ssh_port),
        port=settings.ssh_port,
        port_setting="LOCAL_SITE_SSH_PORT",
    )


def prepare(settings: Settings, credentials: Credentials, machine: Machine, training_env: Path) -> None:
    """Make the account, its home and the settings of the SSH server, as far as they are missing.

    :param settings: The settings of the site.
    :param credentials: The secrets of the site.
    :param machine: How much of a machine of its own it can be.
    :param training_env: The virtual environment for training scripts.
    :raises PreparationError: The account cannot be made.
    """
    _write_sshd_files(settings, credentials, machine)
    for folder, mode in ((settings.vm / "home", 0o700), (settings.vm / "tmp", 0o1777)):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    home = settings.vm / "home"
    if os.geteuid() == 0:
        account = _ensure_account()
        if machine.isolated:
            # Only a place for the environment to appear at.
            (home / "training-env").mkdir(exist_ok=True)
        else:
            home = HOME
            home.mkdir(mode=0o700, exist_ok=True)
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
            _copy_environment(training_env, home / "training-env")
        os.chown(home, account.pw_uid, account.pw_gid)
    else:
        _link(training_env, home / "training-env")


def _write_sshd_files(settings: Settings, credentials: Credentials, machine: Machine) -> None:
    as_root = os.geteuid() == 0
    host_key = authorized_keys = settings.vm
    if machine.isolated:
        host_key = authorized_keys = _INSIDE
    elif as_root:
        # The list is read as the account, which need not be able to reach the state folder.
        authorized_keys = _INSIDE.with_name(f"{_INSIDE.name}-{settings.ssh_port}")
        authorized_keys.mkdir(mode=0o755, exist_ok=True)
    text = _SSHD_CONFIG.format(
        port=settings.ssh_port,
        host_key=host_key / "host_key",
        authorized_keys=authorized_keys / "authorized_keys",
        account=settings.vm_account,
        # Without namespaces the keys may lie in the project, whose parent folders may belong to anybody.
        strict="yes" if machine.isolated else "no",
        extra="" if as_root else f'SetEnv "HOME={settings.vm / "home"}"\n',
    )
    files.write(settings.vm / "sshd_config", text)
    # vm_machine.sh takes the list from the state folder to where it is read.
    listed_in = settings.vm if machine.isolated else authorized_keys
    files.write(listed_in / "authorized_keys", f"restrict,pty {credentials.client_key}\n")


def _ensure_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(VM_ACCOUNT)
    except KeyError:
        pass
    # The password "*" matches no input; "!", which useradd would set, makes sshd refuse keys as well.
    command = ["useradd", "--system", "--user-group", "--home-dir", str(HOME), "--no-create-home"]
    command += ["--shell", "/bin/bash", "--password", "*", "--comment", "training VM of the local site", VM_ACCOUNT]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        # Two sites may have been started at once; then the other one has made it.
        return pwd.getpwnam(VM_ACCOUNT)
    except KeyError:
        raise PreparationError(f"The account {VM_ACCOUNT} cannot be made: {made.stderr.strip()}") from None


def _copy_environment(source: Path, target: Path) -> None:
    """Copy a virtual environment to where an account can read it that cannot reach its origin."""
    mark = target / ".copied-from"
    if mark.exists() and mark.read_text() == str(source):
        return
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    mark.write_text(str(source))


def _link(source: Path, target: Path) -> None:
    if target.is_symlink() and target.readlink() == source:
        return
    target.unlink(missing_ok=True)
    target.symlink_to(source)
