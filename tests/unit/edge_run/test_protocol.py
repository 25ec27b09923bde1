"""Runner and script understand each other, or the run ends and says why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_run.errors import ProtocolError
from edge_run.protocol import METHODS, parse_message


def _line(**changes: Any) -> bytes:
    return json.dumps({"version": 1, "method": "log_text", "params": {"text": "cell 42.17"}, **changes}).encode()


def test_a_message_of_each_method_is_understood() -> None:
    examples: dict[type, Any] = {str: "x", int: 1, float: 0.5, dict: {}, type(None): None}
    for method, kinds in METHODS.items():
        for position in range(max(len(kind) for kind in kinds.values())):
            params = {name: examples[kind[position % len(kind)]] for name, kind in kinds.items()}
            message = parse_message(_line(method=method, params=params))
            assert (message.method, message.params) == (method, params)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"cell 42.17", "not JSON"),
        (b"[" * 100_000, "more than 65536 bytes"),
        (b"[" * 60_000, "not JSON"),
        (b'"cell 42.17"', "without exactly version, method and params"),
        (_line(extra=1), "without exactly version, method and params"),
        (_line(version=2), "understands 1"),
        (_line(version="1"), "understands 1"),
        (_line(method="upload_file"), "known are log_metric, log_text, report_progress, sandbox_ready, save_model"),
        (_line(method=["log_text"]), "unknown method"),
        (_line(params={"text": 42.17}), r"other parameters than text \(str\)"),
        (_line(params={}), r"other parameters than text \(str\)"),
        (_line(method="log_metric", params={"name": "a", "value": True, "step": None}), "other parameters"),
    ],
)
def test_what_is_not_understood_is_refused_without_repeating_it(line: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint) as caught:
        parse_message(line)
    assert "42.17" not in str(caught.value)
