"""The program that is sent to hosts: whole, the same from the same code, and in need of nothing but Python."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from edge_training.deployment.program import imported, program, sources

if TYPE_CHECKING:
    from pathlib import Path


def test_the_same_code_gives_the_same_program() -> None:
    first = program()
    program.cache_clear()
    assert program() == first
    assert first[0].startswith("serve-")


def test_it_needs_nothing_but_the_standard_library() -> None:
    found = set()
    for text in sources().values():
        for node in ast.walk(ast.parse(text)):
            # Inside functions a module may import what it can do without.
            if isinstance(node, ast.Module):
                found |= {one.partition(".")[0] for one in _imports(node)}
    assert found - sys.stdlib_module_names == {"edge_training"}


def _imports(module: ast.Module) -> list[str]:
    plain = [alias.name for node in module.body if isinstance(node, ast.Import) for alias in node.names]
    return plain + [str(node.module) for node in module.body if isinstance(node, ast.ImportFrom)]


def test_it_holds_what_it_imports_and_neither_airflow_s_nor_the_worker_s_part() -> None:
    names = set(zipfile.ZipFile(io.BytesIO(program()[1])).namelist())
    assert {"__main__.py", "edge_training/deployment/host/relay.py", "edge_training/images/unpack.py"} <= names
    assert not [name for name in names if "operators" in name or "hooks" in name or "registry.py" in name]


def test_imports_for_the_type_checker_are_left_out() -> None:
    needed = "from edge_training.exceptions import ImageError\n"
    text = f"{needed}if TYPE_CHECKING:\n    from edge_training.records import Record\n"
    assert imported(text) == ["edge_training.exceptions"]


def test_it_runs_alone(tmp_path: Path) -> None:
    file = tmp_path / program()[0]
    file.write_bytes(program()[1])
    done = subprocess.run(
        [sys.executable, "-I", str(file), "status"],
        input='{"name": "none"}',
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == '{"up": false, "state": {}}\n', done.stderr
