"""The command line of the runner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_run.errors import UsageError
from edge_run.runner import parse_arguments

FINGERPRINT = "sha256:" + "0" * 64
RUNNER = Path(__file__).parents[3] / "include" / "training_scripts" / "edge_run"


def test_parameters_keep_their_kinds() -> None:
    given = ["seed=7", "rate=0.5", "fast=true", "name=x=y", "list=[1]", "none=null", "empty="]
    arguments = parse_arguments(
        ["--grant", "/g", "--fingerprint", FINGERPRINT, *(word for item in given for word in ("--param", item))]
    )
    assert arguments.parameters == {
        "seed": 7,
        "rate": 0.5,
        "fast": True,
        "name": "x=y",
        "list": "[1]",
        "none": None,
        "empty": "",
    }


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "required: --grant, --fingerprint"),
        (["--grant", "/g", "--fingerprint", "latest"], "not sha256:<64 hex digits>"),
        (["--grant", "/g", "--fingerprint", FINGERPRINT, "--param", "novalue"], "not NAME=VALUE"),
        (["--grant", "/g", "--fingerprint", FINGERPRINT, "--param", "a b=1"], "not NAME=VALUE"),
        (["--grant", "/g", "--fingerprint", FINGERPRINT, "--upload", "x"], "unrecognized arguments"),
    ],
)
def test_a_wrong_start_says_what_is_wrong(argv: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_arguments(argv)


def test_the_runner_needs_nothing_but_the_standard_library() -> None:
    modules = sorted(f"edge_run.{path.stem}" for path in RUNNER.glob("*.py") if not path.stem.startswith("__"))
    program = f"import {', '.join(modules)}, sys; print(sorted({{n.split('.')[0] for n in sys.modules}}))"
    environment = {"PYTHONPATH": str(RUNNER.parent), "PATH": os.defpath}
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    foreign = set(eval(done.stdout)) - set(sys.stdlib_module_names) - {"__main__", "edge_run"}  # noqa: S307 - a list we printed
    assert foreign == set()
