from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving.score import MOST_ROWS, RequestError, find_model, read_rows

COLUMNS = ["a", "b", "c"]
SAMPLE = Path(__file__).parents[3] / "include/training_scripts/breast_cancer/sample_request.json"


def read(request: Any, columns: list[str] | None = None) -> list[list[float]]:
    raw = request if isinstance(request, str) else json.dumps(request)
    return read_rows(raw, COLUMNS if columns is None else columns, 3)


@pytest.mark.parametrize(
    "request_",
    [
        {"data": [[1, 2.5, 3]]},
        {"columns": ["c", "a", "b"], "data": [[3, 1, 2.5]]},
        {"data": [{"b": 2.5, "a": 1, "c": 3}]},
    ],
)
def test_each_form_of_a_request_gives_the_columns_in_the_model_s_order(request_: dict[str, Any]) -> None:
    assert read(request_) == [[1.0, 2.5, 3.0]]


def test_a_model_that_does_not_name_its_columns_takes_lists_only() -> None:
    assert read({"data": [[1, 2, 3]]}, []) == [[1.0, 2.0, 3.0]]
    with pytest.raises(RequestError, match="does not name its columns"):
        read({"data": [{"a": 1, "b": 2, "c": 3}]}, [])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has no rows"),
        ({}, "has no rows"),
        ({"data": []}, "has no rows"),
        ({"data": "1,2,3"}, "has no rows"),
        ({"data": [[1, 2, 3]] * (MOST_ROWS + 1)}, "at most 1000"),
        ({"data": [[1, 2, 3], [1, 2]]}, "Row 2 has 2 numbers, the model has 3 columns"),
        ({"data": [7]}, "Row 1 is neither a list nor an object"),
        ({"data": [[1, "2", 3]]}, "Row 1 has no usable number for 'b', found str"),
        ({"data": [[1, None, 3]]}, "found NoneType"),
        ({"data": [[1, True, 3]]}, "found bool"),
        ('{"data": [[1, NaN, 3]]}', "for 'b'"),
        ('{"data": [[1, 1e999, 3]]}', "for 'b'"),
        ('{"data": [[1, 1e39, 3]]}', "for 'b'"),
        ({"data": [[1, 10**400, 3]]}, "for 'b'"),
        ({"data": [{"a": 1, "b": 2, "x": 3}]}, r"missing \['c'\], unknown \['x'\]"),
        ({"columns": ["a", "b", "b"], "data": [[1, 2, 3]]}, r"missing \['c'\]"),
        ({"columns": ["a", "b", "c", "c"], "data": [[1, 2, 3]]}, "4 instead of 3"),
        ({"columns": "abc", "data": [[1, 2, 3]]}, "names its columns wrongly"),
    ],
)
def test_a_wrong_request_is_refused_with_what_is_wrong(request_: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(request_)


def test_a_refusal_repeats_no_value_of_the_request() -> None:
    with pytest.raises(RequestError) as caught:
        read({"data": [["patient 4711", 2, 3]]})
    assert "4711" not in str(caught.value)


def test_the_model_is_found_in_azure_ml_s_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Found 0 files"):
        find_model(tmp_path)
    for number in (1, 2):
        folder = tmp_path / "name" / str(number)
        folder.mkdir(parents=True)
        (folder / "model.onnx").touch()
        if number == 1:
            assert find_model(tmp_path) == folder / "model.onnx"
    with pytest.raises(FileNotFoundError, match="Found 2 files"):
        find_model(tmp_path)


def test_the_sample_request_has_the_columns_that_the_model_is_trained_on() -> None:
    measured = ["radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave_points"]
    measured += ["symmetry", "fractal_dimension"]
    names = [f"mean_{one}" for one in measured] + [f"{one}_error" for one in measured]
    names += [f"worst_{one}" for one in measured]
    assert len(read_rows(SAMPLE.read_text(), names, 30)) == 2
