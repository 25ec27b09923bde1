"""The code that leaves the premises: a run's snapshot, laid out file by file and listed exactly.

Azure ML uploads the whole folder that a run is submitted from. So the folder is made for the purpose, with nothing in it but the
runner and what the project's training needs; the list of it is what the SDK sends, and its digest stands on run and model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ResidencyError
from edge_training.records import CodeFile, CodeManifest
from edge_training.residency.code_rules import MAXIMUM_FILE_BYTES, fault_of_content, fault_of_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edge_training.records import BlobManifest

RUNNER_FOLDER, PROJECT_FOLDER, IGNORE_FILE, POLICY_FILE = "edge_run", "project", ".amlignore", "policy.json"
# Beside the runner, when there is one: modules that every project may import.
SHARED_FOLDER = "shared"
# Without this file the SDK follows .gitignore rules, or none; with it, and no rule in it, it sends exactly what lies in the folder.
IGNORE_RULES = b"# Nothing is left out: this folder was laid out file by file.\n"
# What a project has besides its training: how it is served, how its environment is made, how it is tested.
LEFT_OUT = frozenset(
    ["README.md", "requirements.in", "requirements.lock", "requirements.txt", "sample_request.json", "score.py"]
)
LEFT_OUT_FOLDERS = frozenset(["__pycache__", ".git", "node_modules", "outputs", "logs", "test", "tests"])
MAXIMUM_FILES = 500
_NO_TIME = 315532800  # 1980-01-01: the SDK sends the files' times along


def code_manifest(source_directory: Path, project: str) -> CodeManifest:
    """List exactly the files that a snapshot of this folder carries.

    :param source_directory: what :func:`stage_source` laid out.
    :param project: the training project's name.
    :raises ResidencyError: naming the file that must not leave, or when the folder is not one of :func:`stage_source`.
    """
    ignore = source_directory / IGNORE_FILE
    if not ignore.is_file() or ignore.read_bytes() != IGNORE_RULES:
        raise ResidencyError(
            f"{source_directory} has not our {IGNORE_FILE}: a snapshot is sent from a folder that stage_source laid out."
        )
    found = {IGNORE_FILE: IGNORE_RULES}
    for path in _files(source_directory, source_directory, frozenset()):
        if path != ignore:
            found[path.relative_to(source_directory).as_posix()] = _read(path, source_directory)
    if len(found) > MAXIMUM_FILES:
        raise ResidencyError(
            f"Project '{project}' has {len(found)} files; a training project has at most {MAXIMUM_FILES}."
        )
    return CodeManifest(
        project,
        tuple(CodeFile(name, len(found[name]), hashlib.sha256(found[name]).hexdigest()) for name in sorted(found)),
    )


def stage_source(project_dir: Path, edge_run_dir: Path, target: Path, policy: Mapping[str, Any] | None = None) -> None:
    """Lay out a run's snapshot: ``edge_run/``, ``project/``, an ignore file and the policy; the same input always gives the same folder.

    :param project_dir: the training project, with ``train.py``.
    :param edge_run_dir: the runner; a folder ``shared`` beside it becomes part of the project.
    :param target: a folder that does not exist yet; it appears whole or not at all.
    :param policy: settings of the gate and the sandbox; with none there is no ``policy.json``, and the runner's defaults hold.
    :raises ResidencyError: naming the file that must not leave, or when the target exists.
    """
    if target.exists():
        raise ResidencyError(
            f"{target} exists already: a snapshot is laid out in a new folder, so that nothing else gets in."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target.parent))
    try:
        shared = edge_run_dir.parent / SHARED_FOLDER
        # A project's own file comes after one of the same name that projects share.
        for source, name in (
            (edge_run_dir, RUNNER_FOLDER),
            *([(shared, PROJECT_FOLDER)] if shared.is_dir() else []),
            (project_dir, PROJECT_FOLDER),
        ):
            for path in _wanted(source):
                _write(staging / name / path.relative_to(source), _read(path, source))
        _write(staging / IGNORE_FILE, IGNORE_RULES)
        if policy:
            text = json.dumps(policy, sort_keys=True, indent=1) + "\n"
            _write(staging / POLICY_FILE, text.encode())
        if not (staging / PROJECT_FOLDER / "train.py").is_file():
            raise ResidencyError(f"{project_dir} has no train.py, so there is nothing to train with.")
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_blobs(source_directory: Path, data: BlobManifest) -> None:
    """Refuse a snapshot that has a training blob in it, under whatever name.

    :param source_directory: what :func:`stage_source` laid out.
    :param data: the verified blobs.
    :raises ResidencyError: naming the file.
    """
    blobs = {(blob.size, blob.content_hash) for blob in data.blobs if blob.size}
    sizes = {size for size, _ in blobs}
    algorithms = sorted({blob.content_hash.partition(":")[0] for blob in data.blobs})
    for path in _files(source_directory, source_directory, frozenset()):
        content = path.read_bytes()
        hashes = [f"{name}:{hashlib.new(name, content, usedforsecurity=False).hexdigest()}" for name in algorithms]
        if len(content) in sizes and any((len(content), one) in blobs for one in hashes):
            raise ResidencyError(_message(source_directory, path.relative_to(source_directory), "is a training blob"))


def _wanted(source: Path) -> Iterator[Path]:
    """Yield the files of a folder that training needs; refuse those that look like something else by their names."""
    for path in _files(source, source, LEFT_OUT_FOLDERS):
        relative = path.relative_to(source)
        # A key is refused, not left out, also where it would be left out: it should not lie there.
        if fault := fault_of_name(PurePosixPath(relative.as_posix())):
            raise ResidencyError(_message(source, relative, fault))
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and relative.as_posix() not in LEFT_OUT and path.suffix != ".pyc":
            yield path


def _files(folder: Path, root: Path, left_out: frozenset[str]) -> Iterator[Path]:
    """Yield all files below a folder but those in folders of certain names, sorted, without following links to folders."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in left_out:
                yield from _files(path, root, left_out)
        elif entry.is_file(follow_symlinks=True) and path.resolve().is_relative_to(root.resolve()):
            yield path
        else:
            raise ResidencyError(
                _message(root, path.relative_to(root), "is a link out of the folder, or no ordinary file")
            )


def _read(path: Path, root: Path) -> bytes:
    """Return a file's bytes, if they may leave."""
    relative = path.relative_to(root)
    with path.open("rb") as file:
        content = file.read(MAXIMUM_FILE_BYTES + 1)
    if fault := fault_of_name(PurePosixPath(relative.as_posix())) or fault_of_content(content):
        raise ResidencyError(_message(root, relative, fault))
    return content


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)
    os.utime(path, (_NO_TIME, _NO_TIME))


def _message(root: Path, relative: Path, fault: str) -> str:
    return (
        f"{relative.as_posix()} in {root.name}/ {fault}: it would be uploaded to Azure ML with the run. Move it out of the "
        "training project."
    )
