"""The Python environment of the training VM, made once from a lock and shared by all sites of this project."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from local_site import files
from local_site.errors import MissingToolError, PreparationError

if TYPE_CHECKING:
    from local_site.settings import Settings

# Not the pipeline's own interpreter: that may lie in a folder that the VM does not have.
PYTHON = Path("/usr/bin/python3")


def path(settings: Settings) -> Path:
    """Return where the environment for the present lock is, or will be.

    :param settings: The settings of the site.
    :raises PreparationError: There is no lock.
    :raises MissingToolError: There is no Python for the VM.
    """
    if not PYTHON.exists():
        raise MissingToolError(f"{PYTHON}, the Python of the training VM, is missing. Install it with: bin/setup")
    try:
        lock = settings.training_lock.read_bytes()
    except FileNotFoundError:
        raise PreparationError(
            f"The training environment cannot be made, because {settings.training_lock} does not exist. "
            "Make it with: make lock"
        ) from None
    digest = hashlib.sha256(lock + str(PYTHON.resolve()).encode()).hexdigest()
    return settings.cache / "training-env" / digest[:16]


def ensure(settings: Settings) -> Path:
    """Return the environment, made if it is not there.

    :param settings: The settings of the site.
    :raises PreparationError: It cannot be made.
    """
    target = path(settings)
    if target.exists():
        return target
    with files.locked(settings.cache / "training-env.lock"):
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _make(target, settings.training_lock)
    return target


def _make(target: Path, lock: Path) -> None:
    uv = Path(sys.prefix) / "bin/uv"
    program = str(uv) if uv.exists() else shutil.which("uv")
    if program is None:
        raise MissingToolError("uv is missing, which makes virtual environments. Install it with: bin/setup")
    with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as scratch:
        environment = Path(scratch) / "env"
        _run([program, "venv", "--quiet", "--no-project", "--relocatable", "--python", str(PYTHON), str(environment)])
        python = str(environment / "bin/python")
        _run(
            [program, "pip", "sync", "--quiet", "--python", python, "--require-hashes", "--compile-bytecode", str(lock)]
        )
        # The account of the VM reads it, but everything in it stays the maker's.
        _run(["chmod", "-R", "go=u-w", str(environment)])
        environment.rename(target)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PreparationError(
            f"The training environment cannot be made: {Path(command[0]).name} ended with {done.returncode}:\n"
            f"{done.stderr.strip()}"
        )
