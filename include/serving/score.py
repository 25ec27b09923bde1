"""Serves any ONNX model with one input, a table of numbers: ``init()`` and ``run()`` as the Azure ML inference server calls them.

It becomes the scoring code of every project that has no ``score.py`` of its own.

A request is JSON, rows in one of three forms, at most 1000 of them::

    {"data": [[17.5, 20.0, ...], ...]}                          numbers in the order of the model's columns
    {"columns": ["mean_texture", ...], "data": [[20.0, ...]]}   numbers in the order of ``columns``
    {"data": [{"mean_radius": 17.5, ...}, ...]}                 numbers by name

A classifier's answer is ``{"labels": [1, ...], "probabilities": [[0.02, 0.98], ...]}``: per row the class and, as far as the model gives
it, the probability of each class. Any other model's answer is ``{"values": [152.5, ...]}``, per row a number, or a list when there are
several. What is wrong with a request is answered with status 400 and ``{"message": ...}``; no value of a request is written to the log.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# ONNX Runtime's official builds report to their maker unless this is set before they are imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

MODEL_FILE = "model.onnx"
MOST_ROWS = 1000
# What the model's single precision can hold; NaN and infinity are outside of it, too.
LARGEST = 3e38
_OWN = "Let its project have a score.py of its own."
_FORMS = 'expected {"data": [[number, ...], ...]} or {"data": [{"column": number, ...}, ...]}'


class RequestError(ValueError):
    """A request that the model cannot answer; its message is for the one who sent it."""


class Scorer:
    """The model, loaded once per process.

    :param file: the ONNX file; its metadata may name the columns in order, as a JSON list under ``columns``.
    :raises ValueError: when it is a model of another kind.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self._input, self.width = _table(self._session.get_inputs())
        self._outputs = _answers(self._session.get_outputs())
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.columns: list[str] = json.loads(metadata.get("columns", "[]"))

    def score(self, rows: list[list[float]]) -> dict[str, Any]:
        """Return the answer for checked rows.

        :param rows: numbers in the order of the model's columns.
        """
        import numpy as np

        features = np.asarray(rows, dtype=np.float32)
        found = self._session.run(list(self._outputs.values()), {self._input: features})
        return {word: _WORDS[word](value) for word, value in zip(self._outputs, found, strict=True)}


def _labels(labels: Any) -> list[Any]:
    return list(labels.tolist())


def _probabilities(probabilities: Any) -> list[list[float]]:
    return [[round(float(one), 6) for one in row] for row in probabilities]


def _values(values: Any) -> list[Any]:
    """Return what single precision can tell of each number; one number per row is not put into a list of its own."""
    rows = values.reshape(len(values), -1)
    numbers = [[float(f"{one:.7g}") for one in row] for row in rows]
    return [row[0] for row in numbers] if rows.shape[1] == 1 else numbers


_WORDS: dict[str, Callable[[Any], list[Any]]] = {
    "labels": _labels,
    "probabilities": _probabilities,
    "values": _values,
}


def _table(inputs: list[Any]) -> tuple[str, int]:
    """Return the name of a model's only input, and how many columns it has."""
    told = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 2:
        raise ValueError(
            f"This score.py serves models with one input, float [rows, columns]; this one has {told}. {_OWN}"
        )
    width = inputs[0].shape[1]
    # A number of columns that is open has a name, or none.
    if width is None or isinstance(width, str):
        raise ValueError(
            f"The model's input {told} does not say how many columns it has: convert it with their number."
        )
    return inputs[0].name, width


def _answers(outputs: list[Any]) -> dict[str, str]:
    """Return which output is which part of the answer."""
    labels = [one.name for one in outputs if one.type in {"tensor(int64)", "tensor(string)"}]
    numbers = [one.name for one in outputs if one.type == "tensor(float)"]
    if len(labels) + len(numbers) == len(outputs) and len(labels) <= 1 and len(numbers) <= 1:
        words = ("labels", "probabilities") if labels else ("values",)
        return dict(zip(words, labels + numbers, strict=False))
    told = ", ".join(f"{one.name} {one.type}" for one in outputs)
    raise ValueError(
        "This score.py serves models that give a label, probabilities as one tensor (zipmap False), or numbers as one tensor; this one "
        f"gives {told}. {_OWN}"
    )


_scorer: Scorer | None = None


def init() -> None:
    """Load the model; the server calls it once before it is healthy."""
    global _scorer  # the server's interface has no other place for the model
    _scorer = Scorer(find_model(Path(os.environ["AZUREML_MODEL_DIR"])))
    print(f"{MODEL_FILE} is loaded: {_scorer.width} columns")


def run(raw_data: str) -> Any:
    """Answer one request.

    :param raw_data: the request's body.
    """
    if _scorer is None:
        raise RuntimeError("init() has not been called")
    try:
        return _scorer.score(read_rows(raw_data, _scorer.columns, _scorer.width))
    except RequestError as error:
        # Installed in the image only, and slow to import for whoever just wants to check a request.
        from azureml_inference_server_http.api.aml_response import (  # type: ignore[import-not-found]  # only in the image
            AMLResponse,
        )

        return AMLResponse({"message": str(error)}, 400, json_str=True)


def find_model(folder: Path) -> Path:
    """Return the model's file, wherever Azure ML's layout of folders (``name/version/file``) puts it.

    :param folder: what ``AZUREML_MODEL_DIR`` names.
    :raises FileNotFoundError: when there is not exactly one.
    """
    found = sorted(folder.rglob(MODEL_FILE))
    if len(found) != 1:
        raise FileNotFoundError(f"Found {len(found)} files named {MODEL_FILE} below {folder}, expected 1.")
    return found[0]


def read_rows(raw_data: str, columns: list[str], width: int) -> list[list[float]]:
    """Read and check a request.

    :param raw_data: the request's body.
    :param columns: the model's columns in order; empty when the model does not name them.
    :param width: how many there are.
    :raises RequestError: saying what is wrong, and where.
    """
    try:
        request = json.loads(raw_data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The request is not JSON ({error}): {_FORMS}.") from None
    rows = request.get("data") if isinstance(request, dict) else None
    if not isinstance(rows, list) or not rows:
        raise RequestError(f"The request has no rows: {_FORMS}.")
    if len(rows) > MOST_ROWS:
        raise RequestError(f"The request has {len(rows)} rows, at most {MOST_ROWS} are answered at once: send several.")
    given = request.get("columns", columns)
    if "columns" in request:
        _check_columns(given, columns, "The request")
    return [_read_row(row, number, given, columns, width) for number, row in enumerate(rows, start=1)]


def _read_row(row: object, number: int, given: list[str], columns: list[str], width: int) -> list[float]:
    if isinstance(row, dict):
        _check_columns(list(row), columns, f"Row {number}")
        return [_number(row[name], number, name) for name in columns]
    if not isinstance(row, list):
        raise RequestError(f"Row {number} is neither a list nor an object: {_FORMS}.")
    if len(row) != width:
        raise RequestError(f"Row {number} has {len(row)} numbers, the model has {width} columns.")
    names = given or [f"column {index}" for index in range(1, width + 1)]
    values = {name: _number(value, number, name) for name, value in zip(names, row, strict=True)}
    return [values[name] for name in columns or names]


def _check_columns(given: object, columns: list[str], where: str) -> None:
    if not columns:
        raise RequestError("This model does not name its columns: send rows as lists of numbers.")
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise RequestError(f'{where} names its columns wrongly: expected "columns": ["{columns[0]}", ...].')
    missing, unknown = sorted(set(columns) - set(given)), sorted(set(given) - set(columns))
    if missing or unknown or len(given) != len(columns):
        raise RequestError(
            f"{where} has other columns than the model: missing {missing or 'none'}, unknown {unknown or 'none'}, "
            f"{len(given)} instead of {len(columns)}."
        )


def _number(value: object, row: int, name: str) -> float:
    # A bool is a number to Python; to somebody who sends one it is a mistake.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -LARGEST <= value <= LARGEST:
        raise RequestError(f"Row {row} has no usable number for '{name}', found {type(value).__name__}.")
    return float(value)
