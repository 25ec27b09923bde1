"""What a training script imports: its data, its parameters, and the only way to hand something on.

::

    import edge_context

    for path in edge_context.data_files(): ...
    edge_context.log_metric("accuracy", 0.97)
    edge_context.save_model(model_bytes, "model.onnx")
    edge_context.save_probe([(request, answer), ...])

Inside a run each call becomes one line of JSON on a pipe to the runner, ``{"version": 1, "method": ..., "params": {...}}``.
Outside a run (a laptop, a notebook) the module says so once and works on local files: data from ``EDGE_DATA_DIR``, parameters
from ``EDGE_PARAMETERS``, models to ``./outputs``. It depends on nothing, so that it can be copied anywhere.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 64 * 1024
PROBE_FILE = "probe.json"
MOST_PROBE_CASES = 100

Parameter = str | int | float | bool | None

_lock = threading.Lock()
_warned = False


def data_files() -> list[Path]:
    """Return the training data's files, sorted by name; they cannot be written to.

    :raises FileNotFoundError: outside a run, when ``EDGE_DATA_DIR`` is not a folder with files.
    """
    _inside_a_run()
    folder = Path(os.environ.get("EDGE_DATA_DIR", "data"))
    files = sorted(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda path: str(path.relative_to(folder))
    )
    if not files:
        raise FileNotFoundError(
            f"There are no data files below {folder}: set EDGE_DATA_DIR to the folder that has them."
        )
    return files


def parameters() -> dict[str, Parameter]:
    """Return the run's parameters by name: numbers, truth values, or texts."""
    _inside_a_run()
    found: dict[str, Parameter] = json.loads(os.environ.get("EDGE_PARAMETERS", "{}"))
    return found


def log_metric(name: str, value: float, step: int | None = None) -> None:
    """Report one value of a metric; it shows in Azure ML while the script still runs.

    :param name: lower-case letters, digits and underscores.
    :param value: a finite number.
    :param step: where on the metric's horizontal axis the value belongs; give it for each value of a metric or for none. It only grows.
    :raises ValueError: when the value is not a finite number.
    """
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"The metric {name!r} is {number}: only finite numbers can be reported.")
    _send("log_metric", {"name": str(name), "value": number, "step": None if step is None else int(step)})


def log_text(text: str) -> None:
    """Report one line of text, like ``print`` does; what is too long is cut.

    :param text: for the people who read the run's log; no value from the data.
    """
    _send("log_text", {"text": str(text)[:4000]})


def report_progress(fraction: float, text: str = "") -> None:
    """Report how far the script is.

    :param fraction: from 0 to 1.
    :param text: what it is doing.
    """
    _send("report_progress", {"fraction": min(1.0, max(0.0, float(fraction))), "text": str(text)[:1000]})


def save_model(model: bytes | str | os.PathLike[str], name: str = "model.onnx") -> None:
    """Hand on a model's file. Only this, metrics and log lines leave a run.

    :param model: the file's bytes, or the path of a file.
    :param name: the file's name; the site decides which names there may be.
    :raises ValueError: when the name is not a plain file name.
    """
    if Path(name).name != name or name in {"", ".", ".."}:
        raise ValueError(f"The model's name {name!r} is not a plain file name.")
    folder = Path(os.environ["EDGE_OUTPUT_DIR"]) if _inside_a_run() else Path("outputs")
    folder.mkdir(exist_ok=True)
    if isinstance(model, bytes):
        (folder / name).write_bytes(model)
    else:
        shutil.copyfile(model, folder / name)
    _send("save_model", {"name": name})


def save_probe(cases: Iterable[tuple[Any, Any]], absolute: float = 1e-4, relative: float = 1e-3) -> None:
    """Hand on what the model answers to requests that were made up, so that its image can be tried out with them later.

    :param cases: 1 to 100 pairs of a request, as ``/score`` takes it, and the answer to it. Make the requests up: no row of the data.
    :param absolute: how far a number of an answer may be off, from 0 to 1.
    :param relative: how far it may be off as a part of itself, from 0 to 1; the larger of both limits holds.
    :raises ValueError: when there are too few or too many cases, or something of them is not JSON.
    """
    pairs = [{"request": request, "answer": answer} for request, answer in cases]
    if not 0 < len(pairs) <= MOST_PROBE_CASES:
        raise ValueError(f"A probe has 1 to {MOST_PROBE_CASES} cases, not {len(pairs)}.")
    probe = {"version": 1, "cases": pairs, "tolerance": {"absolute": absolute, "relative": relative}}
    save_model(json.dumps(probe, allow_nan=False).encode(), PROBE_FILE)


def _inside_a_run() -> bool:
    """Tell whether the runner listens; say once when it does not."""
    global _warned
    inside = "EDGE_PROTOCOL_FD" in os.environ
    if not inside and not _warned:
        _warned = True
        warnings.warn(
            "edge_context: not inside a run, so data comes from EDGE_DATA_DIR, models go to ./outputs and nothing is reported.",
            stacklevel=3,
        )
    return inside


def _send(method: str, params: dict[str, Any]) -> None:
    """Write one message, whole, also when threads send at the same time."""
    if not _inside_a_run():
        print(f"edge_context.{method}", json.dumps(params, ensure_ascii=False))
        return
    line = json.dumps({"version": PROTOCOL_VERSION, "method": method, "params": params}).encode() + b"\n"
    if len(line) > MAX_MESSAGE_BYTES:
        raise ValueError(
            f"A message of {len(line)} bytes is too long for {method}; at most {MAX_MESSAGE_BYTES} are allowed."
        )
    with _lock:
        descriptor = int(os.environ["EDGE_PROTOCOL_FD"])
        while line:
            line = line[os.write(descriptor, line) :]
