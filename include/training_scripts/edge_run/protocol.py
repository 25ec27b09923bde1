"""What a script can say to the runner: the reading side of the protocol that :mod:`edge_run.edge_context` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from edge_run.edge_context import MAX_MESSAGE_BYTES, PROTOCOL_VERSION
from edge_run.errors import ProtocolError

_NUMBER = (int, float)

# Each method with its parameters and their kinds. `sandbox_ready` is said once, by our own self-test, before the script starts.
METHODS: dict[str, dict[str, tuple[type, ...]]] = {
    "sandbox_ready": {"checks": (dict,)},
    "log_metric": {"name": (str,), "value": _NUMBER, "step": (int, type(None))},
    "log_text": {"text": (str,)},
    "report_progress": {"fraction": _NUMBER, "text": (str,)},
    "save_model": {"name": (str,)},
}


@dataclass(frozen=True)
class Message:
    """One message that was understood.

    :param method: one of :data:`METHODS`.
    :param params: exactly the parameters of that method.
    """

    method: str
    params: dict[str, Any]


def parse_message(line: bytes) -> Message:
    """Read one line of the protocol.

    :param line: the line with or without its end.
    :raises ProtocolError: when it is not a message of this version with a known method and that method's parameters; the
        message never repeats what the script sent.
    """
    if len(line) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"The script sent a message of more than {MAX_MESSAGE_BYTES} bytes; send a shorter one.")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(
            "The script wrote something to the runner's pipe that is not JSON: use edge_context."
        ) from error
    if not isinstance(value, dict) or set(value) != {"version", "method", "params"}:
        raise ProtocolError("The script sent a message without exactly version, method and params: use edge_context.")
    if value["version"] != PROTOCOL_VERSION:
        raise ProtocolError(
            f"The script speaks another version of the protocol; this runner understands {PROTOCOL_VERSION}. Does the project "
            "bring its own edge_context?"
        )
    if not isinstance(value["method"], str) or value["method"] not in METHODS:
        raise ProtocolError(f"The script called an unknown method; known are {', '.join(sorted(METHODS))}.")
    return Message(value["method"], _checked(value["method"], value["params"]))


def _checked(method: str, params: object) -> dict[str, Any]:
    kinds = METHODS[method]
    known: dict[str, Any] = params if isinstance(params, dict) else {}
    if set(known) == set(kinds) and all(_is(known[name], kind) for name, kind in kinds.items()):
        return known
    expected = ", ".join(f"{name} ({' or '.join(kind.__name__ for kind in kinds[name])})" for name in kinds)
    raise ProtocolError(f"The script called {method} with other parameters than {expected}.")


def _is(value: object, kind: tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
