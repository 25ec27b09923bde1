"""The gate's own record of a run, as the runner left it on the VM: what was let out, what was withheld, what became of the data."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from edge_training.exceptions import ResidencyError

VERSION = 2
PASSED = frozenset(["passed", "cut"])
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class GateItem:
    """One thing that the script wanted to send.

    :param kind: ``"metric"``, ``"log"`` or ``"model"``.
    :param name: the metric's or file's name, the log line's stream; ``""`` when it was withheld.
    :param bytes: its size as it left.
    :param sha256: hex digest over what left; ``""`` when nothing did.
    :param verdict: ``"passed"``, ``"cut"``, ``"dropped"`` or ``"withheld"``.
    :param reason: why it did not pass whole.
    """

    kind: str
    name: str
    bytes: int
    sha256: str
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class GateLog:
    """Everything that the runner printed before it wrote its record.

    :param lines: how many lines.
    :param bytes: their size, with the ends of the lines.
    :param sha256: hex digest over them.
    """

    lines: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class GateRecord:
    """What the runner says of a run.

    :param run_id: the run's id in Azure ML; ``""`` when the runner did not know it.
    :param fingerprint: the data that it was trained on.
    :param result: ``"completed"`` or ``"failed"``.
    :param error: code of the failure, and the SHA-256 of the message that was sent; ``("", "")`` without one.
    :param sandbox: its kind and its self-test.
    :param data: number and size of the blobs.
    :param items: everything that the script wanted to send.
    :param log: what was printed before the record was written.
    :param scan: how the data was looked for in what left.
    :param wiped: what was removed at the end.
    """

    run_id: str
    fingerprint: str
    result: str
    error: tuple[str, str]
    sandbox: dict[str, Any]
    data: dict[str, Any]
    items: tuple[GateItem, ...]
    log: GateLog
    scan: dict[str, Any]
    wiped: dict[str, Any]

    def passed(self, kind: str) -> list[GateItem]:
        """Return what left of a kind.

        :param kind: ``"metric"``, ``"log"`` or ``"model"``.
        """
        return [item for item in self.items if item.kind == kind and item.verdict in PASSED]

    def is_ending(self, text: bytes) -> bool:
        """Tell whether this is how the runner's log ends after it wrote its record: one line, and one more when it failed.

        :param text: what follows the part of the log that the record vouches for.
        """
        left = f"{len(self.items)} items, {sum(item.bytes for item in self.items)} bytes of the script's left; see outputs/edge_run.json"
        end = f"end    | {self.result}: {left}\n".encode()
        if self.result == "completed":
            return text == end
        failed = text.removesuffix(end)
        begin = f"failed | {self.error[0]}: ".encode()
        message = failed.removeprefix(begin).removesuffix(b"\n")
        return failed.startswith(begin) and hashlib.sha256(message).hexdigest() == self.error[1]

    @property
    def held_back(self) -> list[GateItem]:
        """Return what did not leave."""
        return [item for item in self.items if item.verdict not in PASSED]


def no_record(run_id: str, fingerprint: str) -> GateRecord:
    """Return what is known of a run that was killed before it could write its record: that nothing is known.

    :param run_id: the run's id.
    :param fingerprint: the data that it was submitted for.
    """
    log = GateLog(0, 0, hashlib.sha256().hexdigest())
    return GateRecord(run_id, fingerprint, "failed", ("", ""), {}, {}, (), log, {}, {})


def parse_record(content: bytes) -> GateRecord:
    """Read a record.

    :param content: the file's bytes.
    :raises ResidencyError: when it is not a record that this version understands; the message repeats nothing of it.
    """
    try:
        value = json.loads(content)
        return _record(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResidencyError(
            f"The run's record on the VM is not one of version {VERSION} ({type(error).__name__}): the runner in the snapshot and this "
            "pipeline are of different versions, or somebody changed it. Nothing is registered."
        ) from None


def _record(value: Any) -> GateRecord:
    if value["version"] != VERSION:
        raise ValueError("version")
    return GateRecord(
        run_id=_text(value.get("run_id", "")),
        fingerprint=_text(value["fingerprint"]),
        result=_text(value["result"]),
        error=(_text(value["error_code"]), _text(value.get("error_message_sha256", ""))),
        sandbox=dict(value["sandbox"]),
        data=dict(value["data"]),
        items=tuple(_item(item) for item in value["items"]),
        log=GateLog(_count(value["log"]["lines"]), _count(value["log"]["bytes"]), _hash(value["log"]["sha256"])),
        scan=dict(value["scan"]),
        wiped=dict(value["wiped"]),
    )


def _item(value: Any) -> GateItem:
    digest = _text(value["sha256"])
    return GateItem(
        kind=_text(value["kind"]),
        name=_text(value["name"]),
        bytes=_count(value["bytes"]),
        sha256=_hash(digest) if digest else "",
        verdict=_text(value["verdict"]),
        reason=_text(value.get("reason", "")),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("count")
    return value


def _hash(value: Any) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError("hash")
    return value
