"""Decides whether the blobs of a site are the ones it promised. Pure: imports neither Airflow nor Azure.

Every check returns its problems as sentences and raises nothing, so that one task tells all of them. No sentence repeats a value
from the training data: a file without a header has values where the names should be.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edge_training.exceptions import DataVerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

HEADER_BYTES = 64 * 1024
MAXIMUM_PROBLEMS = 20
MAXIMUM_ROWS = 20
_BOM = b"\xef\xbb\xbf"
_NAME_LIKE = re.compile(r"[^\W\d][\w .()/%#-]{0,63}")


class ListedBlob(Protocol):
    """What the checks need to know of a blob."""

    @property
    def name(self) -> str:
        """Return the blob's full name."""

    @property
    def size(self) -> int:
        """Return its size in bytes."""

    @property
    def last_modified(self) -> datetime:
        """Return when it was last written, with time zone."""


@dataclass(frozen=True)
class BlobLimits:
    """What a site promises about its training blobs.

    :param minimum_blobs: at least so many blobs.
    :param minimum_bytes: at least so many bytes in all.
    :param maximum_bytes: at most so many bytes in all, or ``None``.
    :param maximum_age: the newest blob is at most so old, or ``None`` when data need not keep arriving.
    """

    minimum_blobs: int = 1
    minimum_bytes: int = 0
    maximum_bytes: int | None = None
    maximum_age: timedelta | None = None


def listing_problems(blobs: Sequence[ListedBlob], limits: BlobLimits, now: datetime) -> list[str]:
    """Return what is wrong with count, sizes and age.

    :param blobs: the training blobs.
    :param limits: what the site promises.
    :param now: the present, with time zone.
    """
    problems = [f"blob '{blob.name}' is empty" for blob in blobs if blob.size == 0]
    total = sum(blob.size for blob in blobs)
    if len(blobs) < limits.minimum_blobs:
        problems.append(f"found {len(blobs)} training blobs, expected at least {limits.minimum_blobs}")
    if total < limits.minimum_bytes:
        problems.append(f"they hold {size_text(total)} in all, expected at least {size_text(limits.minimum_bytes)}")
    if limits.maximum_bytes is not None and total > limits.maximum_bytes:
        problems.append(f"they hold {size_text(total)} in all, expected at most {size_text(limits.maximum_bytes)}")
    return problems + _age_problems(blobs, limits.maximum_age, now)


def _age_problems(blobs: Sequence[ListedBlob], maximum_age: timedelta | None, now: datetime) -> list[str]:
    if maximum_age is None or not blobs:
        return []
    newest = max(blobs, key=lambda blob: blob.last_modified)
    age = now - newest.last_modified
    if age <= maximum_age:
        return []
    found = f"the newest blob '{newest.name}' is {age_text(age)} old"
    return [f"{found}, expected at most {age_text(maximum_age)}: has the data stopped arriving?"]


def parse_schema(content: bytes, name: str) -> tuple[str, ...]:
    """Return the columns that a Frictionless Table Schema names, in order.

    :param content: the schema, JSON.
    :param name: the schema blob's name, for messages.
    :raises DataVerificationError: when it is not such a schema.
    """
    try:
        schema = json.loads(content)
    except ValueError as error:
        raise DataVerificationError(f"Schema blob '{name}' is not valid JSON: {error}.") from None
    fields = schema.get("fields") if isinstance(schema, dict) else None
    names = (
        [field.get("name") if isinstance(field, dict) else None for field in fields] if isinstance(fields, list) else []
    )
    columns = tuple(one for one in names if isinstance(one, str) and one)
    if not columns or len(columns) != len(names):
        raise DataVerificationError(
            f"Schema blob '{name}' is not a Table Schema: expected an object with 'fields', a list of objects that each have a 'name'."
        )
    if twice := _repeated(columns):
        raise DataVerificationError(f"Schema blob '{name}' names columns more than once: {_quoted(twice)}.")
    return columns


def parse_header(head: bytes, *, complete: bool) -> list[str]:
    """Return the column names in the first line of a CSV file.

    :param head: the file's first bytes.
    :param complete: whether they are the whole file.
    :raises DataVerificationError: when the line does not end within them, is blank, or is not UTF-8 or CSV.
    """
    line = _first_record(head.removeprefix(_BOM), complete=complete)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise DataVerificationError("its header is not UTF-8 text") from None
    try:
        row = next(csv.reader([text], strict=True), [])
    except csv.Error:
        raise DataVerificationError("its header is not valid CSV (unbalanced quotes?)") from None
    if not any(name.strip() for name in row):
        raise DataVerificationError("its first line is blank where the header should be")
    return row


def _first_record(head: bytes, *, complete: bool) -> bytes:
    """Return the bytes up to the first end of line that stands outside quotes."""
    quoted = False
    for index, byte in enumerate(head):
        if byte == 0x22:
            quoted = not quoted
        elif byte in b"\r\n" and not quoted:
            return head[:index]
    if complete:
        return head
    raise DataVerificationError(f"its header does not end within the first {len(head)} bytes")


def header_problems(name: str, head: bytes, *, complete: bool, expected: Sequence[str]) -> list[str]:
    """Return where a blob's header differs from the schema.

    :param name: the blob's full name.
    :param head: the blob's first bytes.
    :param complete: whether they are the whole blob.
    :param expected: the schema's columns, in order.
    """
    try:
        found = parse_header(head, complete=complete)
    except DataVerificationError as error:
        return [f"blob '{name}': {error}"]
    return [f"blob '{name}': {difference}" for difference in _differences(found, expected)]


def _differences(found: Sequence[str], expected: Sequence[str]) -> list[str]:
    if list(found) == list(expected):
        return []
    missing = [column for column in expected if column not in found]
    unexpected = [column for column in found if column not in expected]
    if len(missing) * 2 > len(expected):
        known = f"only {len(expected) - len(missing)} of the {len(expected)} columns of the schema"
        return [
            f"its first line has {len(found)} fields and {known}: is the header missing? (It is not shown, it may be data.)"
        ]
    differences = _misspelt(missing, unexpected, found)
    if missing:
        differences.append(f"misses {_columns(missing)}")
    if unexpected:
        differences.append(
            f"has {_columns([_shown(column, found) for column in unexpected])} that the schema does not name"
        )
    if twice := _repeated(found):
        differences.append(f"has {_columns([_shown(column, found) for column in twice])} more than once")
    return differences or [_order(found, expected)]


def _misspelt(missing: list[str], unexpected: list[str], found: Sequence[str]) -> list[str]:
    """Pair each missing column with the unexpected one that is nearly it, and take both off their lists."""
    differences = []
    for column in list(missing):
        if close := difflib.get_close_matches(
            column, [one for one in unexpected if _NAME_LIKE.fullmatch(one)], n=1, cutoff=0.8
        ):
            missing.remove(column)
            unexpected.remove(close[0])
            differences.append(f"column {list(found).index(close[0]) + 1} is '{close[0]}', expected '{column}'")
    return differences


def _order(found: Sequence[str], expected: Sequence[str]) -> str:
    index = next(index for index, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1])
    return f"its columns are in another order: column {index + 1} is '{found[index]}', expected '{expected[index]}'"


def _shown(column: str, found: Sequence[str]) -> str:
    """Return the column's name, or its number when it does not look like a name and so may be a value."""
    return column if _NAME_LIKE.fullmatch(column) else f"#{list(found).index(column) + 1} (name not shown)"


def _columns(names: Sequence[str]) -> str:
    shown, more = names[:MAXIMUM_ROWS], len(names) - MAXIMUM_ROWS
    return f"column{'s' if len(names) > 1 else ''} {_quoted(shown)}{f' and {more} more' if more > 0 else ''}"


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def problems_text(problems: Sequence[str]) -> str:
    """Return the problems as one text, the first ``MAXIMUM_PROBLEMS`` of them in full.

    :param problems: at least one sentence.
    """
    shown = list(problems[:MAXIMUM_PROBLEMS])
    if more := len(problems) - len(shown):
        shown.append(f"and {more} more")
    return "; ".join(shown)


def blob_table(blobs: Sequence[ListedBlob], now: datetime) -> list[str]:
    """Return the blobs as lines of a table for the log: name, size, age; of many only the newest ``MAXIMUM_ROWS``.

    :param blobs: the training blobs.
    :param now: the present, with time zone.
    """
    newest = sorted(blobs, key=lambda blob: blob.last_modified, reverse=True)[:MAXIMUM_ROWS]
    shown = sorted(newest, key=lambda blob: blob.name)
    width = max((len(blob.name) for blob in shown), default=0)
    lines = [
        f"{blob.name:<{width}}  {size_text(blob.size):>10}  {age_text(now - blob.last_modified)} old" for blob in shown
    ]
    if more := len(blobs) - len(shown):
        lines.append(f"and {more} older blobs")
    return lines


def size_text(size: float) -> str:
    """Return a number of bytes in a unit that people read.

    :param size: bytes.
    """
    if size < 1024:
        return f"{size:.0f} B"
    units = iter(("KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = next(units)
    size /= 1024
    while size >= 1024 and unit != "PiB":
        size, unit = size / 1024, next(units)
    return f"{size:.1f} {unit}"


def age_text(age: timedelta) -> str:
    """Return a length of time in its biggest fitting unit.

    :param age: the length; a negative one, of a clock that is ahead, counts as nothing.
    """
    seconds = max(age.total_seconds(), 0.0)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
