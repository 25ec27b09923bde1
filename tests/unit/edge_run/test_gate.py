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
TINY = b"\x08\x08:\x00B\x02\x10\x11"


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
    outside.gate.model(f"{CELL}.onnx", tmp_path)
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


def _folders(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "outputs"
    source.mkdir()
    target.mkdir()
    return source, target


def test_a_declared_model_leaves_byte_for_byte(tmp_path: Path) -> None:
    source, target = _folders(tmp_path)
    content = os.urandom(3_000_000)
    (source / "model.bin").write_bytes(content)
    outside = Outside(model_files=("model.bin",))
    assert outside.gate.model("model.bin", source)
    assert _names(target) == []
    assert outside.gate.hand_over(source, target) == ["model.bin"]
    assert (target / "model.bin").read_bytes() == content
    assert outside.gate.items[0].sha256 == hashlib.sha256(content).hexdigest()
    assert _names(target) == ["model.bin"]
    assert _names(tmp_path) == ["outputs", "source"]


def test_a_model_that_changed_after_it_was_judged_does_not_leave(tmp_path: Path) -> None:
    source, target = _folders(tmp_path)
    (source / "model.bin").write_bytes(b"one")
    outside = Outside(model_files=("model.bin",))
    assert outside.gate.model("model.bin", source)
    (source / "model.bin").write_bytes(b"two")
    with pytest.raises(OSError, match="changed"):
        outside.gate.hand_over(source, target)
    assert _names(target) == []


def test_models_of_a_run_that_failed_are_taken_back(tmp_path: Path) -> None:
    source, target = _folders(tmp_path)
    (source / "model.bin").write_bytes(b"one")
    outside = Outside(model_files=("model.bin",))
    outside.gate.model("model.bin", source)
    outside.gate.hand_over(source, target)
    outside.gate.take_back(target)
    assert _names(target) == []
    assert outside.verdicts == ["dropped"]
    assert outside.gate.bytes_out == 0


def test_models_that_are_too_large_together_are_withheld(tmp_path: Path) -> None:
    source, target = _folders(tmp_path)
    for name in ("a.bin", "b.bin"):
        (source / name).write_bytes(b"12345")
    outside = Outside(model_files=("a.bin", "b.bin"), model_bytes=9)
    assert [outside.gate.model(name, source) for name in ("a.bin", "b.bin")] == [True, False]
    assert outside.gate.hand_over(source, target) == ["a.bin"]


def test_a_link_or_a_folder_in_place_of_a_model_is_withheld(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("private")
    (tmp_path / "model.onnx").symlink_to(tmp_path / "secret")
    outside = Outside(model_files=("model.onnx", "folder.onnx", "gone.onnx"))
    (tmp_path / "folder.onnx").mkdir()
    for name in ("model.onnx", "folder.onnx", "gone.onnx"):
        assert not outside.gate.model(name, tmp_path)
    assert outside.verdicts == ["withheld"] * 3


@pytest.mark.parametrize("content", [b"", b"model", TINY + b"more", TINY[:-1], b"\x1f" + TINY])
def test_what_is_not_exactly_an_onnx_model_is_withheld_under_such_a_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(TINY)
    (tmp_path / "other.onnx").write_bytes(content)
    outside = Outside(model_files=("model.onnx", "other.onnx"))
    assert [outside.gate.model(name, tmp_path) for name in ("model.onnx", "other.onnx")] == [True, False]
    assert "not an ONNX model" in outside.gate.withheld[0].reason


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 60_000, b'"' + b"a" * 65_536 + b'"'])
def test_what_is_not_a_little_json_is_withheld_under_such_a_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "probe.json").write_bytes(b'{"version": 1}')
    (tmp_path / "other.json").write_bytes(content)
    outside = Outside(model_files=("probe.json", "other.json"))
    assert [outside.gate.model(name, tmp_path) for name in ("probe.json", "other.json")] == [True, False]
    assert "not JSON of at most 65536 bytes" in outside.gate.withheld[0].reason
