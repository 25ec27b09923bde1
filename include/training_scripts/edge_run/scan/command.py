"""``scan``: the pipeline asks the VM whether files hold the data that a run is granted.

::

    python -I DIR/edge_run/__main__.py scan --grant PATH --fingerprint sha256:... (--tree DIR | --tar -) [--policy FILE]

``scan`` searches files for the granted data, which it fetches as a run does, and wipes afterwards; the grant stays. ``--tar -``
reads a tar archive from the standard input, of which nothing is written to disk. It prints exactly one line of JSON without any
value of the data, and ends with status 0 (nothing found), 1 (something found) or 2 (it could not be done: ``error_code``, ``error``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import stat
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from edge_run.errors import EdgeRunError, UsageError
from edge_run.fetch import fetch_blobs
from edge_run.grant import read_grant
from edge_run.policy import Policy, read_policy
from edge_run.scan.scanner import Scanner
from edge_run.workspace import open_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VERSION = 1
MOST_FILE_BYTES = 4 * 1024 * 1024 * 1024


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"edge_run scan was started wrongly: {message}.")


def main(argv: Sequence[str]) -> int:
    """Search, print one line, and return the exit status."""
    try:
        answer = _scan(argv)
    except EdgeRunError as error:
        answer = {"clean": False, "error_code": error.code, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - its text may hold a URL or data, so only its kind is told
        answer = {
            "clean": False,
            "error_code": "Internal",
            "error": f"The scan itself failed ({type(error).__name__}): please report it.",
        }
    print(json.dumps({"version": VERSION, **answer}, sort_keys=True))
    return 2 if "error" in answer else 0 if answer["clean"] else 1


def _scan(argv: Sequence[str]) -> dict[str, Any]:
    parser = _Parser(prog="edge_run scan")
    parser.add_argument("--grant", required=True, type=Path)
    parser.add_argument("--fingerprint", required=True)
    parser.add_argument("--policy", type=Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--tree", type=Path)
    what.add_argument("--tar", choices=["-"])
    found = parser.parse_args(argv)
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", found.fingerprint):
        raise UsageError("edge_run scan was started wrongly: --fingerprint is not sha256:<64 hex digits>.")
    if found.tree is not None and not found.tree.is_dir():
        raise UsageError("edge_run scan was started wrongly: --tree is not a folder.")
    policy = read_policy(found.policy) if found.policy else Policy()
    start = time.monotonic()
    grant = read_grant(found.grant.expanduser(), found.fingerprint)
    workspace, _ = open_workspace(Path.home())
    try:
        workspace.require_space(grant.total_bytes)
        paths = fetch_blobs(grant, workspace.data)
        scanner = Scanner.best([paths[name] for name in sorted(paths)], policy)
        files = _tar_files(sys.stdin.buffer) if found.tar else _tree_files(found.tree)
        answer = search(scanner, files)
    finally:
        workspace.wipe()
    return {
        **answer,
        "fingerprint": grant.fingerprint,
        "data": {"blobs": len(grant.blobs), "bytes": grant.total_bytes},
        "scan": scanner.facts(),
        "seconds": round(time.monotonic() - start, 3),
    }


def search(scanner: Scanner, files: Iterator[tuple[str, bytes]]) -> dict[str, Any]:
    """Search files and their names.

    :param files: each with its path and content.
    :returns: how much was searched and what was found, as JSON.
    """
    findings, count, size = [], 0, 0
    for name, content in files:
        count += 1
        size += len(content)
        named = scanner.listen().name(name)[0]
        if named and named.kind != "token":
            findings.append({"file": "", "kind": "name", "where": [], "reason": f"in a file's name, {named.reason}"})
        elif found := scanner.scan(content):
            findings.append({"file": name, "kind": found.kind, "where": list(found.where), "reason": found.reason})
    return {"clean": not findings, "files": count, "bytes": size, "findings": findings}


def _tree_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield all ordinary files below a folder; of a link, its target's name is what would be sent."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                yield str(path.relative_to(folder)), os.fsencode(path.readlink())
            elif stat.S_ISREG(status.st_mode):
                _check_size(status.st_size)
                yield str(path.relative_to(folder)), path.read_bytes()


def _tar_files(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                _check_size(member.size)
                file = archive.extractfile(member) if member.isfile() else None
                yield member.name, file.read() if file else member.linkname.encode("utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise UsageError(f"What came in is no tar archive, or is cut off ({type(error).__name__}).") from error


def _check_size(size: int) -> None:
    if size > MOST_FILE_BYTES:
        raise UsageError(f"A file of {size} bytes is too large to be searched; at most {MOST_FILE_BYTES} are.")
