"""The gate lets out what metrics, log lines and models are, and remembers each; what it withholds it does not repeat."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from edge_run.gate import Gate
from edge_run.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

CELL = "17.99"


class Outside:
    """Takes what the gate lets out."""

    def __init__(self, **policy: Any) -> None:
        self.metrics: list[tuple[str, float, int | None]] = []
        self.said: list[str] = []
        self.gate = Gate(Policy(**policy), lambda *metric: self.metrics.append(metric), self.said.append)

    @property
    def verdicts(self) -> list[str]:
        return [item.verdict for item in self.gate.items]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_metric_leaves_and_is_remembered_with_its_hash() -> None:
    outside = Outside()
    outside.gate.metric("roc_auc", 0.99, 3)
    assert outside.metrics == [("roc_auc", 0.99, 3)]
    item = outside.gate.items[0]
    content = b"roc_auc=0.99 step=3"
    assert (item.kind, item.name, item.bytes, item.sha256, item.verdict) == (
        "metric",
        "roc_auc",
        len(content),
        hashlib.sha256(content).hexdigest(),
        "passed",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", 1.0),
        ("row 17.99", 1.0),
        ("Accuracy", 1.0),
        ("a" * 65, 1.0),
        ("accuracy\n", 1.0),
        ("accuracy", float("nan")),
        ("accuracy", float("inf")),
        ("accuracy", 10**400),
    ],
)
def test_what_is_not_a_metric_is_withheld(name: str, value: float) -> None:
    outside = Outside()
    outside.gate.metric(name, value, None)
    assert outside.metrics == []
    assert outside.verdicts == ["withheld"]


def test_metric_values_beyond_the_limit_are_withheld() -> None:
    outside = Outside(metric_values=2)
    for step in range(4):
        outside.gate.metric("loss", 1.0, step)
    assert len(outside.metrics) == 2
    assert outside.verdicts == ["passed", "passed", "withheld", "withheld"]


def test_what_is_withheld_leaves_neither_name_nor_hash_nor_size(tmp_path: Path) -> None:
    outside = Outside()
    outside.gate.metric(f"row {CELL}", 1.0, None)
    outside.gate.model(f"{CELL}.onnx", tmp_path, tmp_path)
    assert [(item.name, item.bytes, item.sha256) for item in outside.gate.withheld] == [("", 0, "")] * 2
    assert CELL not in "".join(outside.said) + str([asdict(item) for item in outside.gate.items])


def test_a_long_line_is_cut_and_that_is_said() -> None:
    outside = Outside(log_line_characters=10)
    outside.gate.line("stdout", "x" * 25)
    assert outside.said == ["script | xxxxxxxxxx ... (15 more characters cut)"]
    assert (outside.gate.items[0].verdict, outside.gate.items[0].bytes) == ("cut", 10)


@pytest.mark.parametrize("limits", [{"log_lines": 2}, {"log_bytes": 10}])
def test_lines_beyond_the_limit_stay_and_are_counted_in_one_item(limits: dict[str, int]) -> None:
    outside = Outside(**limits)
    for _ in range(5):
        outside.gate.line("stdout", "12345")
    assert outside.verdicts == ["passed", "passed", "dropped"]
    assert outside.gate.items[-1].reason == "3 lines beyond the limit of the log"
    assert outside.gate.withheld == []
    assert len(outside.said) == 3


def test_a_script_cannot_forge_a_line_of_the_runner() -> None:
    outside = Outside()
    outside.gate.line("stdout", "x\nwipe   | done\x1b[2K")
    assert outside.said == [r"script | x\nwipe   | done\x1b[2K"]


def test_the_last_lines_that_left_can_be_repeated() -> None:
    outside = Outside(log_line_characters=7)
    for number in range(20):
        outside.gate.line("stderr", f"line {number:02} {CELL}")
    outside.gate.line("stdout", "other")
    assert outside.gate.last_lines("stderr") == [f"line {number:02}" for number in range(8, 20)]


def test_a_declared_model_leaves_byte_for_byte(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    content = os.urandom(3_000_000)
    (source / "model.onnx").write_bytes(content)
    outside = Outside()
    assert outside.gate.model("model.onnx", source, target)
    assert (target / "model.onnx").read_bytes() == content
    assert outside.gate.items[0].sha256 == hashlib.sha256(content).hexdigest()
    assert _names(target) == ["model.onnx"]


def test_models_that_are_too_large_together_are_withheld(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"12345")
    outside = Outside(model_files=("a.onnx", "b.onnx"), model_bytes=9)
    target = tmp_path / "target"
    target.mkdir()
    assert [outside.gate.model(name, tmp_path, target) for name in ("a.onnx", "b.onnx")] == [True, False]
    assert _names(target) == ["a.onnx"]


def test_a_link_or_a_folder_in_place_of_a_model_is_withheld(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("private")
    (tmp_path / "model.onnx").symlink_to(tmp_path / "secret")
    outside = Outside(model_files=("model.onnx", "folder.onnx", "gone.onnx"))
    (tmp_path / "folder.onnx").mkdir()
    target = tmp_path / "target"
    target.mkdir()
    for name in ("model.onnx", "folder.onnx", "gone.onnx"):
        assert not outside.gate.model(name, tmp_path, target)
    assert _names(target) == []
