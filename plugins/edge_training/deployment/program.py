"""Packs the program that runs on hosts into one file, with exactly the modules that it imports."""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import zipfile
from pathlib import Path

from edge_training.exceptions import ConfigurationError

PACKAGE = Path(__file__).resolve().parents[1]
ENTRY = "edge_training.deployment.host.main"
# Read as text and handed to the image's own interpreter.
_DATA = ("edge_training.deployment.host.relay",)
_MAIN = f"""\
import sys
if sys.version_info < (3, 11):
    sys.exit("Python 3.11 or later is needed on the host, found " + sys.version.split()[0])
from {ENTRY} import run
run()
"""
_TIME = (2020, 1, 1, 0, 0, 0)


@functools.cache
def program() -> tuple[str, bytes]:
    """Return the program's name, which carries the digest of its content, and its bytes; the same code gives the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted({"__main__.py": _MAIN, **sources()}.items()):
            archive.writestr(zipfile.ZipInfo(name, _TIME), text, zipfile.ZIP_DEFLATED)
    content = packed.getvalue()
    return f"serve-{hashlib.sha256(content).hexdigest()[:12]}.pyz", content


def sources() -> dict[str, str]:
    """Return the modules of the program by their path in it: the entry, and all of ours that are imported from there on."""
    found: dict[str, str] = {}
    todo = [ENTRY, *_DATA]
    while todo:
        name = todo.pop()
        file = _file(name)
        path = file.relative_to(PACKAGE.parent).as_posix()
        if path not in found:
            found[path] = file.read_text(encoding="utf-8")
            packages = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
            todo += [*packages, *imported(found[path])]
    return found


def imported(source: str) -> list[str]:
    """Return the modules of ours that a module imports when it runs; those for the type checker do not count.

    :param source: its text.
    """
    found: list[str] = []
    for node in _running(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edge_training"):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if _exists(name) else str(node.module) for name in inner]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("edge_training")]
    return found


def _running(node: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        nodes += [child, *_running(child)]
    return nodes


def _exists(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _file(name: str) -> Path:
    path = PACKAGE.parent.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        raise ConfigurationError(f"The program for hosts imports {name}, which is not a module of this project.")
    return file
