"""Keeps what an image's Python compiles when it starts, so that no later start has to do it again: half of the time until it is healthy.

Layers carry no compiled modules, for their bytes, and with them the layer's digest, would depend on the patch release of Python. They are
made on the host instead, by the image's own interpreter in its own sandbox, and only for the layers that all images share: what a
model's own layers bring never runs before it was looked through, and never writes what another image reads.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training.deployment.host import sandbox
from edge_training.deployment.host.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_training.deployment.host.sandbox import Isolation

_FOLDER = "compiled"
_NAME = re.compile(r"(?P<module>[^.]+)\.[a-z]+-\d+\.pyc")
_SECONDS = 60.0
_LOG_TAIL = 500


def run_and_keep(kind: Isolation, run: Mapping[str, Any], root: Path, scratch: Path) -> int:
    """Run an image's command once, and put the modules that its Python compiled beside their sources.

    :param kind: what it is run in.
    :param run: what the image's configuration says about running it; a command that ends by itself.
    :param root: the image's files; they get folders ``__pycache__``.
    :param scratch: where a folder for the time of the run is made; one that is left of a killed program has the prefix ``making-``.
    :returns: how many modules were kept.
    :raises HostError: when the command fails, which leaves the root as it was; or when a module cannot be written, which may leave some.
    """
    folder = Path(tempfile.mkdtemp(prefix="making-", dir=scratch))
    try:
        _run(sandbox.once(kind, root, {**run, "Env": _environment(run)}, folder), kind)
        return _keep(folder / _FOLDER, root.resolve())
    except OSError as error:
        raise HostError(
            "host", f"The host cannot keep compiled modules: {error.strerror or error}.", retryable=True
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """Add to a root what the modules of another one were compiled to, as far as both have the same source.

    :param source: the root that has compiled modules.
    :param target: the root that is still being made.
    """
    real = target.resolve()
    for folder in source.rglob("__pycache__"):
        for file in folder.iterdir():
            place = _place(file.name, real / folder.parent.relative_to(source))
            module = folder.parent / _module(file.name)
            if place is not None and module.exists() and module.samefile(place.parent.parent / module.name):
                os.link(file, place, follow_symlinks=False)


def _run(command: list[str], kind: Isolation) -> None:
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=sandbox.quiet_environment(),
    ) as process:
        try:
            told = process.communicate(timeout=_SECONDS)[0].decode("utf-8", "replace").strip()[-_LOG_TAIL:]
        except subprocess.TimeoutExpired:
            raise HostError("image", f"The image's command did not end within {_SECONDS:.0f} s.") from None
        finally:
            sandbox.end(kind, process)
    if process.returncode:
        raise HostError(
            "image", f"The image's command ended with exit status {process.returncode}: {told or '(empty)'}"
        )


def _environment(run: Mapping[str, Any]) -> list[str]:
    """Return the image's environment, in which Python writes what it compiles into the one folder that it can write to."""
    kept = [entry for entry in run.get("Env") or [] if not entry.startswith("PYTHONDONTWRITEBYTECODE=")]
    return [*kept, f"PYTHONPYCACHEPREFIX={sandbox.INSIDE}/{_FOLDER}"]


def _keep(made: Path, root: Path) -> int:
    count = 0
    for name, _, files in os.walk(made):
        for file in (Path(name) / one for one in sorted(files)):
            place = _place(file.name, root / Path(name).relative_to(made))
            if place is not None and stat.S_ISREG(file.lstat().st_mode):
                shutil.copyfile(file, place, follow_symlinks=False)
                place.chmod(0o644)
                count += 1
    return count


def _module(name: str) -> str:
    """Return the name of the source that a compiled module is of; ``""`` when its own name is not that of one."""
    named = _NAME.fullmatch(name)
    return f"{named['module']}.py" if named else ""


def _place(name: str, folder: Path) -> Path | None:
    """Return where a compiled module goes, in a folder ``__pycache__`` that is made when missing.

    :param name: of the compiled module.
    :param folder: the source's, in a root whose own path has no link in it.
    :returns: the path; ``None`` when there is no such source, there is something already, or a link would lead elsewhere.
    """
    module, place = _module(name), folder / "__pycache__" / name
    # A path with a link in it may lead out of the image.
    if not module or folder.resolve() != folder or not (folder / module).is_file() or os.path.lexists(place):
        return None
    if not place.parent.is_dir():
        if os.path.lexists(place.parent):
            return None
        place.parent.mkdir()
        place.parent.chmod(0o755)
    return None if place.parent.is_symlink() else place
