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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edge_training.deployment.host.sandbox import Isolation

_FOLDER = "compiled"
_NAME = re.compile(r"(?P<module>.+)\.[a-z]+-\d+\.pyc")
_SECONDS = 120.0


def run_and_keep(kind: Isolation, run: Mapping[str, Any], root: Path, scratch: Path) -> int:
    """Run an image's command once, and put the modules that its Python compiled beside their sources.

    :param kind: what it is run in.
    :param run: what the image's configuration says about running it; a command that ends by itself.
    :param root: the image's files; they get folders ``__pycache__``.
    :param scratch: where a folder for the time of the run is made; one that is left of a killed program has the prefix ``making-``.
    :returns: how many modules were kept; 0 when the command failed, which harms nothing but the next start's speed.
    """
    folder = Path(tempfile.mkdtemp(prefix="making-", dir=scratch))
    try:
        command = sandbox.once(kind, root, {**run, "Env": _environment(run)}, folder)
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=sandbox.quiet_environment(),
            timeout=_SECONDS,
            check=False,
        )
        return _keep(folder / _FOLDER, root) if done.returncode == 0 else 0
    except (OSError, subprocess.TimeoutExpired):
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(run: Mapping[str, Any]) -> list[str]:
    """Return the image's environment, in which Python writes what it compiles into the one folder that it can write to."""
    kept = [entry for entry in run.get("Env") or [] if not entry.startswith("PYTHONDONTWRITEBYTECODE=")]
    return [*kept, f"PYTHONPYCACHEPREFIX={sandbox.INSIDE}/{_FOLDER}"]


def _keep(made: Path, root: Path) -> int:
    count = 0
    for folder, file in _files(made):
        named = _NAME.fullmatch(file.name)
        place = root / folder
        # A path with a link in it may lead out of the image.
        if named is None or place.resolve() != place or not (place / f"{named['module']}.py").is_file():
            continue
        target = place / "__pycache__" / file.name
        target.parent.mkdir(exist_ok=True)
        if target.parent.is_symlink() or os.path.lexists(target):
            continue
        shutil.copyfile(file, target, follow_symlinks=False)
        target.chmod(0o644)
        count += 1
    return count


def _files(made: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files of what was made, each with its folder as the image's Python names it."""
    for name, _, files in os.walk(made):
        for file in sorted(files):
            path = Path(name) / file
            if stat.S_ISREG(path.lstat().st_mode):
                yield Path(name).relative_to(made), path
