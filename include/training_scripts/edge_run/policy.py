"""How much may leave, and what the script may use: safe defaults, and a file by which a site changes them.

The pipeline writes ``policy.json`` at the snapshot's root, beside the project and out of its reach, so that it is part of the
code's digest; without the file the defaults hold.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from edge_run.errors import UsageError
from edge_run.sandbox import ANY, KINDS

if TYPE_CHECKING:
    from pathlib import Path

POLICY_FILE = "policy.json"
ON_WITHHELD = ("fail", "continue")


@dataclass(frozen=True)
class Policy:
    """What the gate lets out and what the sandbox grants.

    :param model_files: the names that a model's file, or the probe beside it, may have.
    :param model_bytes: the most that all model files together may have.
    :param metric_pattern: what a metric's name must match as a whole.
    :param metric_values: the most metric values that a run may send.
    :param log_line_characters: a longer line of the script is cut.
    :param log_lines: the most lines of the script that a run may send.
    :param log_bytes: the most bytes of the script's lines that a run may send.
    :param memory_bytes: address space of each process of the script; 0 for as much as the VM has memory.
    :param processes: the most processes and threads of the script.
    :param file_bytes: the largest file that the script may write.
    :param seconds: how long the script may take.
    :param disk_bytes: what the script may keep on disk in all; 0 for half of what is free.
    :param sandbox: the kind of sandbox that the script must run in, or ``"any"`` for the best that the VM can make (sandbox.py).
    :param on_withheld: what becomes of a run of which something was withheld: ``"fail"``, or ``"continue"`` without it.
    :param scan_bits: how improbable by chance a find of training data must be, in bits beyond the size of the data; less is stricter.
    :param scan_cells: how many different telling cells in text, in any order, are a find.
    :param scan_depth: how deeply nested archives and encodings are opened; what is nested deeper is withheld.
    :param scan_unpacked_bytes: what unpacks to more than that is withheld.
    :param token_characters: the longest stretch in a line or name that may look encoded.
    :param token_total: the most characters of such stretches that a run may send.
    """

    model_files: tuple[str, ...] = ("model.onnx", "probe.json")
    model_bytes: int = 512 * 1024 * 1024
    metric_pattern: str = r"[a-z][a-z0-9_]{0,63}"
    metric_values: int = 10_000
    log_line_characters: int = 500
    log_lines: int = 5_000
    log_bytes: int = 512 * 1024
    memory_bytes: int = 0
    processes: int = 512
    file_bytes: int = 4 * 1024 * 1024 * 1024
    seconds: int = 12 * 3600
    disk_bytes: int = 0
    sandbox: str = ANY
    on_withheld: str = "fail"
    scan_bits: int = 40
    scan_cells: int = 16
    scan_depth: int = 6
    scan_unpacked_bytes: int = 1024 * 1024 * 1024
    token_characters: int = 64
    token_total: int = 2048


def load_policy(snapshot: Path) -> Policy:
    """Read the site's policy.

    :param snapshot: the snapshot's root.
    :raises UsageError: when the file has an unknown setting or a value of the wrong kind.
    """
    return read_policy(snapshot / POLICY_FILE)


def read_policy(path: Path) -> Policy:
    """Read a policy from a file; one that does not exist means the defaults.

    :raises UsageError: when the file has an unknown setting or a value of the wrong kind.
    """
    if not path.exists():
        return Policy()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{POLICY_FILE} is not JSON: {error}.") from error
    return parse_policy(value)


def parse_policy(value: object) -> Policy:
    """Make a policy of a JSON object.

    :raises UsageError: naming the setting that is wrong.
    """
    if not isinstance(value, dict):
        raise UsageError(f"{POLICY_FILE} is not an object of settings.")
    defaults = {f.name: f.default for f in fields(Policy)}
    if unknown := sorted(set(value) - set(defaults)):
        raise UsageError(f"{POLICY_FILE} has unknown settings {unknown}; known are {sorted(defaults)}.")
    policy = Policy(**{name: _checked(name, item, defaults[name]) for name, item in value.items()})
    try:
        re.compile(policy.metric_pattern)
    except re.error as error:
        raise UsageError(f"{POLICY_FILE}: metric_pattern is not a regular expression: {error}.") from error
    for name, known in (("on_withheld", ON_WITHHELD), ("sandbox", (ANY, *KINDS))):
        if getattr(policy, name) not in known:
            raise UsageError(f"{POLICY_FILE}: {name} is {getattr(policy, name)!r}; expected one of {list(known)}.")
    return policy


def _checked(name: str, item: object, default: object) -> Any:
    if isinstance(default, tuple) and isinstance(item, list) and all(isinstance(one, str) for one in item):
        if bad := [one for one in item if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", one)]:
            raise UsageError(f"{POLICY_FILE}: {name} has {bad}, which are not plain file names.")
        return tuple(item)
    if type(item) is type(default) and not (isinstance(item, int) and item < 0):
        return item
    kind = {tuple: "a list of texts", int: "a whole number of at least 0", str: "a text"}[type(default)]
    raise UsageError(f"{POLICY_FILE}: {name} is {item!r}; expected {kind}.")
