"""The probe of a model: synthetic requests, and what the model answered to them when it was trained.

A training script leaves it as ``probe.json`` beside the model::

    {"version": 1, "cases": [{"request": ..., "answer": ...}, ...], "tolerance": {"absolute": 1e-4, "relative": 1e-3}}
"""

from __future__ import annotations

import json
import math
from typing import Any

from edge_training.exceptions import ImageError

PROBE_FILE = "probe.json"
NO_PROBE: dict[str, Any] = {"cases": [], "tolerance": {"absolute": 0.0, "relative": 0.0}}
LARGEST_PROBE = 1 << 20
_MOST_CASES = 100


def parse_probe(text: bytes, of: str) -> dict[str, Any]:
    """Read and check a probe.

    :param text: the file's bytes.
    :param of: what it belongs to, for errors.
    :raises ImageError: when it is not one.
    """
    try:
        probe = json.loads(text)
    except ValueError:
        probe = None
    if not isinstance(probe, dict) or probe.get("version") != 1:
        raise ImageError(f"{PROBE_FILE} of {of} is not a probe of version 1: see what the training script saves.")
    cases, tolerance = probe.get("cases"), probe.get("tolerance")
    if not isinstance(cases, list) or not 0 < len(cases) <= _MOST_CASES or not all(map(_is_case, cases)):
        raise ImageError(
            f"{PROBE_FILE} of {of} must have 1 to {_MOST_CASES} cases, each with a request and the answer to it."
        )
    if not isinstance(tolerance, dict) or not all(
        _is_tolerance(tolerance.get(name)) for name in ("absolute", "relative")
    ):
        raise ImageError(
            f"{PROBE_FILE} of {of} must have a tolerance with 'absolute' and 'relative', each from 0 to 1."
        )
    return {"cases": cases, "tolerance": {name: tolerance[name] for name in ("absolute", "relative")}}


def _is_case(value: object) -> bool:
    return isinstance(value, dict) and {"request", "answer"} <= set(value)


def _is_tolerance(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
