"""Where a script runs: without network, without credentials, with its data and code read-only.

Each kind of sandbox is one function from a :class:`Plan` to a command line, so that a VM without bubblewrap can get another
kind later. Whatever the kind, :mod:`edge_run.self_test` proves it from inside before the script starts.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_run.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_run.workspace import Workspace

ROOT = Path("/edge")
INSTALL = "install it on the VM with: apt-get install bubblewrap"
_TEMPORARY = "/tmp"  # noqa: S108 - the sandbox has one of its own
_SHARED = "/dev/shm"  # noqa: S108
_OURS = Path(__file__).resolve().parent
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")


@dataclass(frozen=True)
class Plan:
    """What a sandbox has to hold.

    :param read_only: where each file or folder of the VM appears inside, not to be written.
    :param writable: the same for the few folders that may be.
    :param environment: the whole environment of the script.
    :param temporary_bytes: how large ``/tmp`` inside may grow.
    """

    read_only: Mapping[Path, Path]
    writable: Mapping[Path, Path]
    environment: Mapping[str, str]
    temporary_bytes: int


@dataclass(frozen=True)
class Sandbox:
    """A kind of sandbox that this VM has.

    :param kind: its name.
    :param command: turns a plan into the beginning of a command line; what runs inside follows it.
    """

    kind: str
    command: Callable[[Plan], list[str]]


def find_sandbox() -> Sandbox:
    """Return the best kind of sandbox that this VM has.

    :raises SandboxError: when it has none, with what to install.
    """
    if program := shutil.which("bwrap", path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/usr/local/bin"):
        return Sandbox("bubblewrap", lambda plan: _bubblewrap(program, plan))
    raise SandboxError(f"The VM has no bubblewrap, so the script cannot run apart from the network: {INSTALL}.")


def make_plan(workspace: Workspace, project: Path, environment: Mapping[str, str]) -> Plan:
    """Lay out what a training script sees.

    :param workspace: the run's private folder.
    :param project: the folder with the project's ``train.py``.
    :param environment: variables besides the few that every script gets.
    """
    accounts = workspace.root / "passwd"
    accounts.write_text(f"train:x:65534:65534::{ROOT}/scratch:/bin/sh\n", encoding="utf-8")
    accounts.chmod(0o644)
    return Plan(
        read_only={
            accounts: Path("/etc/passwd"),
            **{folder: folder for folder in _interpreter_folders()},
            project: ROOT / "project",
            workspace.data: ROOT / "data",
            _OURS / "edge_context.py": ROOT / "lib" / "edge_context.py",
            _OURS / "self_test.py": ROOT / "self_test.py",
        },
        writable={workspace.scratch: ROOT / "scratch", workspace.output: ROOT / "output"},
        environment={
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": f"{ROOT}/scratch",
            "TMPDIR": _TEMPORARY,
            "PYTHONPATH": f"{ROOT}/lib",
            "PYTHONHASHSEED": "0",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            # ONNX Runtime reports to its maker by default; here it could not, and would wait for nothing.
            "ORT_DISABLE_TELEMETRY": "1",
            "EDGE_DATA_DIR": f"{ROOT}/data",
            "EDGE_OUTPUT_DIR": f"{ROOT}/output",
            **environment,
        },
        temporary_bytes=1024 * 1024 * 1024,
    )


def _interpreter_folders() -> list[Path]:
    """Return the folders of the running interpreter and its environment that lie outside the system's own.

    :raises SandboxError: when a folder is so wide that binding it would show the script what it must not see.
    """
    folders = sorted({Path(sys.prefix), Path(sys.base_prefix), Path(os.path.realpath(sys.executable)).parent.parent})
    outside = [folder for folder in folders if not folder.is_relative_to("/usr") and str(folder) not in _SYSTEM]
    wide = [folder for folder in outside if Path.home().is_relative_to(folder) or len(folder.parts) < 3]
    if wide:
        raise SandboxError(
            f"The training interpreter's folder {wide[0]} holds more than an environment: use a virtual one."
        )
    return outside


def _bubblewrap(program: str, plan: Plan) -> list[str]:
    """Return bubblewrap's command line: new namespaces of every kind, nothing of the VM but what the plan names."""
    command = [
        program,
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        *("--uid", "65534", "--gid", "65534", "--hostname", "edge", "--cap-drop", "ALL"),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(plan.temporary_bytes), "--tmpfs", _TEMPORARY),
        *("--size", str(plan.temporary_bytes), "--tmpfs", _SHARED),
        *("--ro-bind", "/usr", "/usr"),
    ]
    for folder in _SYSTEM:
        if Path(folder).is_symlink():
            command += ["--symlink", str(Path(folder).readlink()), folder]
        elif Path(folder).is_dir():
            command += ["--ro-bind", folder, folder]
    for path in _SETTINGS:
        command += ["--ro-bind-try", path, path]
    for outside, inside in plan.read_only.items():
        command += ["--ro-bind", str(outside), str(inside)]
    for outside, inside in plan.writable.items():
        command += ["--bind", str(outside), str(inside)]
    for name, value in plan.environment.items():
        command += ["--setenv", name, value]
    return [*command, "--remount-ro", "/", "--chdir", str(ROOT / "project"), "--"]
