"""What is noted beside a target that cannot be asked what it runs: a file with what is there, and what was there before."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edge_training.deployment.targets import Candidate
from edge_training.exceptions import ConfigurationError, DeploymentError

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST = 10


def read_notes(folder: Path, name: str) -> tuple[Candidate, ...]:
    """Return what was deployed to a target, the newest first; nothing when nothing was.

    :param folder: where the note is.
    :param name: the target's name.
    :raises DeploymentError: when the note is damaged.
    """
    path = _path(folder, name)
    try:
        return tuple(Candidate.from_json(one) for one in json.loads(path.read_text()))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, ConfigurationError) as error:
        raise DeploymentError(
            f"'{path}' is damaged: correct it, or remove it and forget what was there before ({error})."
        ) from error


def note(folder: Path, name: str, now: Candidate, before: Sequence[Candidate]) -> None:
    """Note what is deployed to a target now.

    :param folder: where the note is; made when missing.
    :param name: the target's name.
    :param now: what is deployed.
    :param before: what was noted before.
    """
    kept = [now, *(one for one in before if one.digest != now.digest)]
    write_whole(_path(folder, name), json.dumps([one.to_json() for one in kept[:MOST]], indent=1))


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all.

    :param path: the file; its folder is made when missing.
    :param text: its content.
    :raises DeploymentError: when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        raise DeploymentError(f"'{path}' cannot be written: {error.strerror or error}.", retryable=True) from error


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.deployed.json"
