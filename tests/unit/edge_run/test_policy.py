"""The site's policy is read strictly: a mistake in it never means that more may leave."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from edge_run.errors import UsageError
from edge_run.policy import Policy, load_policy, parse_policy


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load_policy(tmp_path) == Policy()


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(json.dumps({"model_files": ["a.onnx", "b.onnx"], "seconds": 5}))
    assert load_policy(tmp_path) == Policy(model_files=("a.onnx", "b.onnx"), seconds=5)


def test_a_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        load_policy(tmp_path)


def test_every_setting_stands_in_the_document_on_security() -> None:
    table = (Path(__file__).parents[3] / "docs" / "security.md").read_text().partition("## The policy")[2]
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE) == [one.name for one in fields(Policy)]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([], "not an object"),
        ({"model_file": ["x"]}, r"unknown settings \['model_file'\]; known are \['disk_bytes', 'file_bytes'"),
        ({"model_bytes": "1"}, "model_bytes is '1'; expected a whole number"),
        ({"model_bytes": True}, "expected a whole number"),
        ({"model_bytes": -1}, "expected a whole number of at least 0"),
        ({"model_files": "model.onnx"}, "expected a list of texts"),
        ({"model_files": ["../model.onnx"]}, "not plain file names"),
        ({"metric_pattern": "("}, "not a regular expression"),
        ({"sandbox": "none"}, "sandbox is 'none'; expected one of .'any', 'bubblewrap', 'namespaces', 'seccomp'"),
        ({"on_withheld": "ignore"}, "on_withheld is 'ignore'; expected one of"),
    ],
)
def test_a_wrong_setting_is_named(value: object, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_policy(value)
