"""Canonical JSON: one value has exactly one text, so that a hash or a signature over the text is one over the value."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from edge_training.exceptions import ResidencyError


def canonical(value: object) -> bytes:
    """Return the canonical text of a value: sorted keys, no spaces, UTF-8, one line with its end.

    Numbers are whole: a fraction has more than one text, and programs disagree about which.

    :param value: objects, lists, texts, whole numbers, truth values and null.
    :raises ResidencyError: when it holds anything else.
    """
    _check(value)
    try:
        return (json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        raise ResidencyError("Canonical JSON has no half characters.") from None


def digest_of(content: bytes) -> str:
    """Return ``sha256:<hex>`` over bytes.

    :param content: the bytes.
    """
    return "sha256:" + hashlib.sha256(content).hexdigest()


def parse_canonical(content: bytes, what: str) -> Any:
    """Read a canonical text, and refuse one that says the same in another way.

    :param content: the text.
    :param what: what it is, to begin a sentence.
    :raises ResidencyError: when it is no JSON, or not its canonical text.
    """
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise ResidencyError(f"{what} cannot be read: it is no JSON text ({type(error).__name__}).") from None
    if canonical(value) != content:
        raise ResidencyError(f"{what} was changed: it is not the one text that stands for what it says.")
    return value


def _check(value: object) -> None:
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise ResidencyError("Canonical JSON has texts as names.")
        for item in value.values():
            _check(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item)
    elif value is not None and not isinstance(value, (str, int, bool)):
        raise ResidencyError(f"Canonical JSON has no {type(value).__name__}.")


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the object; a name that stands twice would let two readers read two things."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
