"""The commands of the project."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]


def make(*arguments: str) -> str:
    # These tests run below a `make` themselves, which would tell this one about itself.
    env = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    done = subprocess.run(["make", *arguments], cwd=PROJECT, env=env, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_alone_lists_the_commands_with_a_line_each() -> None:
    lines = make().splitlines()
    named = [line.split()[1] for line in lines]
    assert named[:8] == ["demo", "down", "test", "test-unit", "lint", "lock", "chaos", "clean"]
    assert named[8:] == [
        "test-azure-ml-restarts",
        "bench-azure-ml",
        "bench-images",
        "bench-deploy",
        "bench-residency",
        "bench-triggers",
        "bench-preload",
        "bench-parse",
    ]
    for line in lines:
        assert re.fullmatch(r"  make [a-z-]+ +[A-Z].*\.", line), line


@pytest.mark.parametrize("target", ["demo", "test", "test-unit", "lint", "lock"])
def test_a_command_first_installs_what_it_needs(target: str) -> None:
    assert make("-n", target).splitlines()[0] == "bin/setup"


def test_nothing_is_installed_to_stop_or_to_remove_things() -> None:
    assert "bin/setup" not in make("-n", "down") + make("-n", "clean")


def test_clean_stops_everything_before_it_removes_anything() -> None:
    lines = make("-n", "clean").splitlines()
    assert "demo down" in lines[0]
    assert all("rm" not in line for line in lines[:1])


def test_clean_removes_only_what_git_ignores() -> None:
    removed = [word for line in make("-n", "clean").splitlines() if line.startswith("rm ") for word in line.split()[1:]]
    folders = [word for word in removed if not word.startswith("-")]
    ignored = {line.strip("/\n") for line in (PROJECT / ".gitignore").read_text().splitlines()}
    assert folders
    assert set(folders) <= ignored


def test_python_may_keep_what_it_compiled() -> None:
    printed = subprocess.run(
        ["make", "-s", "-f", "-", "show"],
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        input=f"include {PROJECT / 'Makefile'}\nshow:\n\t@echo value=$${{PYTHONDONTWRITEBYTECODE-}}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert printed.stdout.strip() == "value=", printed.stderr


def test_lock_makes_every_lock_of_the_project() -> None:
    text = make("-n", "lock")
    locks = {
        str(path.relative_to(PROJECT))
        for path in PROJECT.rglob("*requirements*.lock")
        if ".venv" not in path.parts and ".local" not in path.parts
    }
    assert locks == set(re.findall(r"-o (\S+)", text))
    assert text.count("--generate-hashes") == len(locks)


def test_continuous_integration_runs_the_command_that_people_run() -> None:
    lines = (PROJECT / ".ci/run").read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == "exec python3 .ci/supervise.py make test </dev/null"
