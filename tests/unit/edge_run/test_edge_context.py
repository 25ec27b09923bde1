"""What scripts import works inside a run and, unchanged, on a laptop."""

from __future__ import annotations

import importlib
import json
import os
import threading
from typing import TYPE_CHECKING

import pytest

from edge_run import edge_context
from edge_run.protocol import parse_message
from edge_training.deployment.probes import PROBE_FILE, parse_probe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOT_IN_A_RUN = "not inside a run"


@pytest.fixture
def laptop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("EDGE_PROTOCOL_FD", "EDGE_DATA_DIR", "EDGE_OUTPUT_DIR", "EDGE_PARAMETERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    importlib.reload(edge_context)
    return tmp_path


@pytest.fixture
def run(laptop: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[str, object]]]:
    """Inside a run; returns what the script has said, read by the runner's own parser."""
    said = laptop / "messages"
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT)
    monkeypatch.setenv("EDGE_PROTOCOL_FD", str(descriptor))
    monkeypatch.setenv("EDGE_OUTPUT_DIR", str(laptop / "output"))

    def messages() -> list[tuple[str, object]]:
        found = [parse_message(line) for line in said.read_bytes().splitlines()]
        return [(message.method, message.params) for message in found]

    return messages


def _say_two_things() -> None:
    edge_context.log_metric("accuracy", 1)
    edge_context.log_text("hello")


def test_on_a_laptop_it_says_once_that_nothing_is_reported(laptop: Path) -> None:
    with pytest.warns(UserWarning, match=NOT_IN_A_RUN) as caught:
        _say_two_things()
    assert len(caught) == 1


def test_on_a_laptop_data_parameters_and_models_are_local(laptop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (laptop / "mine" / "deeper").mkdir(parents=True)
    (laptop / "mine" / "b.csv").touch()
    (laptop / "mine" / "deeper" / "a.csv").touch()
    monkeypatch.setenv("EDGE_DATA_DIR", "mine")
    monkeypatch.setenv("EDGE_PARAMETERS", json.dumps({"folds": 3}))
    with pytest.warns(UserWarning, match=NOT_IN_A_RUN):
        assert [path.name for path in edge_context.data_files()] == ["b.csv", "a.csv"]
    assert edge_context.parameters() == {"folds": 3}
    edge_context.save_model(b"bytes", "model.onnx")
    assert (laptop / "outputs" / "model.onnx").read_bytes() == b"bytes"


def test_missing_data_names_the_variable_to_set(laptop: Path) -> None:
    with pytest.warns(UserWarning, match=NOT_IN_A_RUN), pytest.raises(FileNotFoundError, match="set EDGE_DATA_DIR"):
        edge_context.data_files()


def test_the_runner_understands_everything_that_a_script_can_say(
    run: Callable[[], list[tuple[str, object]]], laptop: Path
) -> None:
    edge_context.log_metric("accuracy", 1, 2)
    edge_context.log_text("hello")
    edge_context.report_progress(7, "nearly")
    (laptop / "made.bin").write_bytes(b"bytes")
    edge_context.save_model(laptop / "made.bin", "model.onnx")
    assert run() == [
        ("log_metric", {"name": "accuracy", "value": 1.0, "step": 2}),
        ("log_text", {"text": "hello"}),
        ("report_progress", {"fraction": 1.0, "text": "nearly"}),
        ("save_model", {"name": "model.onnx"}),
    ]
    assert (laptop / "output" / "model.onnx").read_bytes() == b"bytes"


def test_messages_of_several_threads_do_not_mix(run: Callable[[], list[tuple[str, object]]]) -> None:
    threads = [threading.Thread(target=edge_context.log_text, args=[str(n) * 4000]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(params) for _, params in run()) == sorted(str({"text": str(n) * 4000}) for n in range(8))


def test_a_metric_that_is_not_a_number_fails_where_it_is_logged(laptop: Path) -> None:
    with pytest.raises(ValueError, match="'loss' is nan"):
        edge_context.log_metric("loss", float("nan"))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd"])
def test_a_model_name_that_is_a_path_is_refused(laptop: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a plain file name"):
        edge_context.save_model(b"", name)


def test_a_probe_is_what_the_pipeline_reads(laptop: Path) -> None:
    with pytest.warns(UserWarning, match="not inside a run"):
        edge_context.save_probe([({"data": [[1.5]]}, {"labels": [0]})], absolute=0.01)
    probe = parse_probe((laptop / "outputs" / PROBE_FILE).read_bytes(), "this test")
    assert probe["cases"] == [{"request": {"data": [[1.5]]}, "answer": {"labels": [0]}}]
    assert probe["tolerance"] == {"absolute": 0.01, "relative": 0.001}


@pytest.mark.parametrize("cases", [[], [(1, 2)] * 101, [(1, float("nan"))], [(1, float("inf"))]])
def test_a_probe_without_cases_or_with_what_json_cannot_say_is_refused(
    laptop: Path, cases: list[tuple[object, object]]
) -> None:
    with pytest.raises(ValueError, match=r"cases|JSON"):
        edge_context.save_probe(cases)
    assert not (laptop / "outputs").exists()
