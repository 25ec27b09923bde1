"""The filters of run queries: a small part of OData, translated to SQL with every value bound.

::

    filter     = term { ("and" | "or") term }        "and" binds closer than "or"
    term       = "(" filter ")" | comparison
    comparison = field op value                       Status eq Completed,  Tags/site eq "oslo",  ParentRunId eq null

``(Tags/x ne null or Tags/x eq null)`` is how the SDK asks for runs that have a tag x, whatever its value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from local_site.azure_ml.clock import parse_utc, utc_text
from local_site.azure_ml.errors import BadRequestError

COLUMNS = {
    "RunId": "run_id",
    "Status": "status",
    "Target": "target",
    "ParentRunId": "parent_run_id",
    "RootRunId": "root_run_id",
    "RunType": "run_type",
    "Name": "name",
    "CreatedUtc": "created",
    "StartTimeUtc": "started",
    "EndTimeUtc": "ended",
}
TIMES = {"CreatedUtc", "StartTimeUtc", "EndTimeUtc"}
MAPS = {"Tags": "select 1 from json_each(tags)", "Properties": "select 1 from json_each(properties)"}
OPERATORS = {"eq": "is", "ne": "is not", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}
COMPARISON = re.compile(r'(\w+(?:/.+?)?) (eq|ne|gt|ge|lt|le) (".*?"(?=\)| and | or |$)|[^()"]+?(?=\)| and | or |$))')
WORD = re.compile(r"\s+(and|or)\s+")
DEEPEST = 50


def where(text: str) -> tuple[str, list[Any]]:
    """Translate a filter.

    :param text: the filter; empty for none.
    :return: an SQL condition over the table of runs, and the values to bind.
    :raises BadRequestError: when it cannot be read or names an unknown field.
    """
    if not text.strip():
        return "true", []
    reader = _Reader(text.strip())
    condition = reader.any_of()
    if reader.at < len(reader.text):
        raise BadRequestError(f"The filter cannot be read from character {reader.at} on: {reader.text}")
    return condition, reader.values


def order(wanted: str | list[str] | None) -> str:
    """Translate an ``orderby``, such as ``StartTimeUtc desc``.

    :raises BadRequestError: when it names an unknown field.
    """
    parts = [wanted] if isinstance(wanted, str) else (wanted or [])
    terms = []
    for part in parts:
        name, _, direction = str(part).strip().partition(" ")
        if name not in COLUMNS or direction.lower() not in {"", "asc", "desc"}:
            raise BadRequestError(f"Runs cannot be ordered by '{part}'; the fields are {', '.join(COLUMNS)}.")
        column = "coalesce(started, created)" if name == "StartTimeUtc" else COLUMNS[name]
        terms.append(f"{column} {direction or 'asc'}")
    return ", ".join([*terms, "run_number desc"])


@dataclass
class _Reader:
    """Reads a filter from left to right, collecting the values as it goes."""

    text: str
    at: int = 0
    depth: int = 0
    values: list[Any] = field(default_factory=list)

    def any_of(self) -> str:
        parts = [self.all_of()]
        while self.word("or"):
            parts.append(self.all_of())
        return " or ".join(parts)

    def all_of(self) -> str:
        parts = [self.term()]
        while self.word("and"):
            parts.append(self.term())
        return " and ".join(parts)

    def word(self, wanted: str) -> bool:
        match = WORD.match(self.text, self.at)
        if not match or match.group(1) != wanted:
            return False
        self.at = match.end()
        return True

    def term(self) -> str:
        if not self.text.startswith("(", self.at):
            return self.comparison()
        self.at += 1
        self.depth += 1
        if self.depth > DEEPEST:
            raise BadRequestError("The filter is nested too deeply.")
        inner = self.any_of()
        if not self.text.startswith(")", self.at):
            raise BadRequestError(f"The filter lacks a ')' at character {self.at}: {self.text}")
        self.at += 1
        self.depth -= 1
        return f"({inner})"

    def comparison(self) -> str:
        match = COMPARISON.match(self.text, self.at)
        if not match:
            raise BadRequestError(f"The filter cannot be read from character {self.at} on: {self.text}")
        self.at = match.end()
        name, operator, raw = match.groups()
        value = _value(raw.strip())
        kind, _, key = name.partition("/")
        if kind in MAPS and key:
            self.values += [key, value]
            return f"exists ({MAPS[kind]} where key = ? and value {OPERATORS[operator]} ?)"
        if name not in COLUMNS:
            known = ", ".join([*COLUMNS, "Tags/<name>", "Properties/<name>"])
            raise BadRequestError(f"Runs cannot be filtered by '{name}'; the fields are {known}.")
        self.values.append(utc_text(parse_utc(value)) if name in TIMES and value else value)
        return f"{COLUMNS[name]} {OPERATORS[operator]} ?"


def _value(raw: str) -> str | None:
    if raw == "null":
        return None
    return raw[1:-1] if len(raw) > 1 and raw[0] == raw[-1] == '"' else raw
