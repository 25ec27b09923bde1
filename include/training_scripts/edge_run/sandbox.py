"""Where a script runs: without network, without credentials, with its data and code read-only.

There are several kinds, best first; the first one that this VM can make is used. Each is a function from a :class:`Plan` to a command
line. Whatever the kind, :mod:`edge_run.self_test` proves it from inside before the script starts.

    bubblewrap   namespaces of every kind, made by a program that others have looked through
    namespaces   the same, made by ourselves (:mod:`edge_run.sandboxes.namespaces`)
    seccomp      where namespaces are forbidden: Landlock and a filter of system calls (:mod:`edge_run.sandboxes.confined`)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_run.errors import SandboxError
from edge_run.sandboxes.namespaces import SETTINGS, SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_run.workspace import Workspace

ROOT = Path("/edge")
INSTALL = "install it on the VM with: apt-get install bubblewrap"
ANY = "any"
TRIAL_SECONDS = 30.0
_TEMPORARY = Path("/tmp")  # noqa: S108 - most kinds of sandbox have one of their own
_SHARED = Path("/dev/shm")  # noqa: S108 - likewise
_OURS = Path(__file__).resolve().parent
_LAUNCHER = _OURS / "sandboxes" / "launch.py"


@dataclass(frozen=True)
class Places:
    """Where things are for the script.

    :param project: the project's folder, with ``train.py``; the script starts there.
    :param data: the blobs.
    :param library: the folder that ``edge_context`` is imported from.
    :param self_test: the program that is run before the script.
    :param scratch: its home.
    :param output: what it hands over.
    :param temporary: for temporary files.
    """

    project: Path
    data: Path
    library: Path
    self_test: Path
    scratch: Path
    output: Path
    temporary: Path


@dataclass(frozen=True)
class Plan:
    """What a sandbox has to hold.

    :param read_only: where each file or folder of the VM appears inside, not to be written.
    :param writable: the same for the few folders that may be.
    :param environment: the whole environment of the script.
    :param temporary_bytes: how large ``/tmp`` inside may grow.
    :param places: where the script finds what it needs.
    :param root: an empty folder of the run's own, where a file system can be laid out.
    """

    read_only: Mapping[Path, Path]
    writable: Mapping[Path, Path]
    environment: Mapping[str, str]
    temporary_bytes: int
    places: Places
    root: Path


@dataclass(frozen=True)
class Sandbox:
    """A kind of sandbox.

    :param kind: its name.
    :param has_root: whether the script sees a file system of its own, in which what is not in the plan does not exist.
    :param command: turns a plan into the beginning of a command line; what runs inside follows it.
    """

    kind: str
    has_root: bool
    command: Callable[[Plan], list[str]]


def find_sandbox(wanted: str, plan_for: Callable[[Sandbox], Plan]) -> tuple[Sandbox, Plan]:
    """Return the best kind of sandbox that this VM can make, by trying, and the plan for it.

    :param wanted: a kind that the site's policy demands, or :data:`ANY`.
    :param plan_for: makes the plan for a kind.
    :raises SandboxError: when there is none, with the reason of each kind and what to install.
    """
    reasons = []
    for sandbox in SANDBOXES:
        if wanted not in {ANY, sandbox.kind}:
            continue
        plan = plan_for(sandbox)
        if not (reason := _try(sandbox, plan)):
            return sandbox, plan
        reasons.append(f"{sandbox.kind}: {reason}")
    demanded = f", and the policy demands {wanted}" if wanted != ANY else ""
    raise SandboxError(
        f"The VM can make no sandbox{demanded}, so the script was not started ({'; '.join(reasons)}). Allow the training account user "
        f"namespaces (sysctl, AppArmor), and for bubblewrap {INSTALL}; without namespaces a kernel of 5.13 or later with Landlock will do."
    )


def _try(sandbox: Sandbox, plan: Plan) -> str:
    """Make a sandbox with nothing in it, and return why that does not work, or ``""``."""
    try:
        command = [*sandbox.command(plan), "/bin/true"]
        done = subprocess.run(
            command, env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_SECONDS, check=False
        )
    except OSError as error:
        return "not installed" if isinstance(error, FileNotFoundError) else f"it cannot be started ({error.strerror})"
    except subprocess.TimeoutExpired:
        return f"nothing happened for {TRIAL_SECONDS:.0f} s"
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return "" if done.returncode == 0 else (said[-1][:300] if said else f"status {done.returncode}")


def make_plan(sandbox: Sandbox, workspace: Workspace, project: Path, environment: Mapping[str, str]) -> Plan:
    """Lay out what a training script sees.

    :param sandbox: the kind that it is for.
    :param workspace: the run's private folder.
    :param project: the folder with the project's ``train.py``.
    :param environment: variables besides the few that every script gets.
    """
    own = workspace.root / "plan"
    shutil.rmtree(own, ignore_errors=True)
    for folder in (own, own / "root", own / "lib", workspace.scratch / "tmp"):
        folder.mkdir(mode=0o700, exist_ok=True)
    places = _own_places() if sandbox.has_root else _places(workspace, project, own)
    for name in ("edge_context.py", "self_test.py"):
        shutil.copyfile(_OURS / name, own / "lib" / name)
    accounts = own / "passwd"
    accounts.write_text(f"train:x:65534:65534::{places.scratch}:/bin/sh\n", encoding="utf-8")
    accounts.chmod(0o644)
    return Plan(
        read_only={
            **({accounts: Path("/etc/passwd")} if sandbox.has_root else {}),
            **{folder: folder for folder in _interpreter_folders()},
            project: places.project,
            workspace.data: places.data,
            own / "lib": places.library,
        },
        writable={workspace.scratch: places.scratch, workspace.output: places.output},
        environment={**_environment(places), **environment},
        temporary_bytes=1024 * 1024 * 1024,
        places=places,
        root=own / "root",
    )


def sealed_folders(sandbox: Sandbox, plan: Plan) -> list[Path]:
    """Return folders that the script must not be able to write to, though some of them it sees.

    :param sandbox: the kind.
    :param plan: its plan.
    """
    common = [plan.places.data, plan.places.project, plan.places.library, Path("/usr"), Path("/")]
    return common if sandbox.has_root else [*common, plan.root, Path.home(), _TEMPORARY, _SHARED]


def _own_places() -> Places:
    lib = ROOT / "lib"
    return Places(
        ROOT / "project", ROOT / "data", lib, lib / "self_test.py", ROOT / "scratch", ROOT / "output", _TEMPORARY
    )


def _places(workspace: Workspace, project: Path, own: Path) -> Places:
    """Return where things are without a file system of the script's own: where they are anyway."""
    lib, scratch = own / "lib", workspace.scratch
    return Places(project, workspace.data, lib, lib / "self_test.py", scratch, workspace.output, scratch / "tmp")


def _environment(places: Places) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(places.scratch),
        "TMPDIR": str(places.temporary),
        "PYTHONPATH": str(places.library),
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        # ONNX Runtime reports to its maker by default; here it could not, and would wait for nothing.
        "ORT_DISABLE_TELEMETRY": "1",
        "EDGE_DATA_DIR": str(places.data),
        "EDGE_OUTPUT_DIR": str(places.output),
    }


def _interpreter_folders() -> list[Path]:
    """Return the folders of the running interpreter and its environment that lie outside the system's own.

    :raises SandboxError: when a folder is so wide that binding it would show the script what it must not see.
    """
    folders = sorted({Path(sys.prefix), Path(sys.base_prefix), Path(os.path.realpath(sys.executable)).parent.parent})
    outside = [folder for folder in folders if not folder.is_relative_to("/usr") and str(folder) not in SYSTEM]
    wide = [folder for folder in outside if Path.home().is_relative_to(folder) or len(folder.parts) < 3]
    if wide:
        raise SandboxError(
            f"The training interpreter's folder {wide[0]} holds more than an environment: use a virtual one."
        )
    return outside


def _bubblewrap(plan: Plan) -> list[str]:
    """Return bubblewrap's command line: new namespaces of every kind, nothing of the VM but what the plan names."""
    program = shutil.which("bwrap", path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/usr/local/bin")
    command = [
        program or "bwrap",
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        *("--uid", "65534", "--gid", "65534", "--hostname", "edge", "--cap-drop", "ALL"),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(plan.temporary_bytes), "--tmpfs", str(_TEMPORARY)),
        *("--size", str(plan.temporary_bytes), "--tmpfs", str(_SHARED)),
        *("--ro-bind", "/usr", "/usr"),
    ]
    for folder in SYSTEM:
        if Path(folder).is_symlink():
            command += ["--symlink", str(Path(folder).readlink()), folder]
        elif Path(folder).is_dir():
            command += ["--ro-bind", folder, folder]
    for path in SETTINGS:
        command += ["--ro-bind-try", path, path]
    for outside, inside in plan.read_only.items():
        command += ["--ro-bind", str(outside), str(inside)]
    for outside, inside in plan.writable.items():
        command += ["--bind", str(outside), str(inside)]
    for name, value in plan.environment.items():
        command += ["--setenv", name, value]
    return [*command, "--remount-ro", "/", "--chdir", str(plan.places.project), "--"]


def _launcher(kind: str, plan: Plan) -> list[str]:
    """Return the command line of our own launcher."""
    spec = {
        "kind": kind,
        "parent": os.getpid(),
        "read_only": [[str(outside), str(inside)] for outside, inside in plan.read_only.items()],
        "writable": [[str(outside), str(inside)] for outside, inside in plan.writable.items()],
        "environment": dict(plan.environment),
        "folder": str(plan.places.project),
        "root": str(plan.root),
        "temporary_bytes": plan.temporary_bytes,
    }
    return [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(spec)]


SANDBOXES = (
    Sandbox("bubblewrap", has_root=True, command=_bubblewrap),
    Sandbox("namespaces", has_root=True, command=lambda plan: _launcher("namespaces", plan)),
    Sandbox("seccomp", has_root=False, command=lambda plan: _launcher("seccomp", plan)),
)
"""Best first."""
KINDS = tuple(sandbox.kind for sandbox in SANDBOXES)
