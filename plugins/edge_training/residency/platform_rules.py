"""The few things that the platform itself writes about a run, and how they look when they carry nothing else.

What is listed here is allowed without the gate's word for it, so the lists are short, the names are exact, and what can carry data is
looked into. They were written after the SDK's sources and Microsoft's documents; a site whose platform writes more names it in its file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set

    from edge_training.residency.evidence import HeldFile

PLATFORM_FILES = (
    r"azureml-logs/(20_image_build_log|60_control_log|70_driver_log|80_driver_log)\.txt",
    r"azureml-logs/(55_azureml-execution|65_job_prep|75_job_post)(-tvmps_[0-9a-f]{16,80}(_[dp])?)?\.txt",
    r"azureml-logs/process_(info|status)\.json",
    r"logs/azureml/(azureml|job_prep_azureml|job_release_azureml|\d{1,7}_azureml)\.log",
    r"system_logs/[a-z]{1,20}(_capability)?/[a-z]{1,20}([_-][a-z]{1,20}){0,2}\.log",
)
FILE_BYTES = 256 * 1024
"""The most that a platform's log may have; a longer one is more than a log of one run."""

_PROPERTIES = re.compile(r"(_azureml|azureml)\.[A-Za-z]{1,40}(\.[A-Za-z]{1,40})?|Process(Info|Status)File")
_PROPERTY_VALUE = re.compile(r"[A-Za-z][A-Za-z_./-]{0,60}|")
_VALUE_ID = re.compile(r"[0-9A-Fa-f]{8}-?([0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}")
_PLAIN_NAME = re.compile(r"[A-Za-z_.~][A-Za-z0-9_./~-]{0,59}")
_NUMBER = rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_ROW = re.compile(rb"(?:%s[ \t]*[,;|\t][ \t]*){4,}%s" % (_NUMBER, _NUMBER))
_TOKEN = re.compile(rb"[A-Za-z0-9+/=_-]{100,}")
_MOST_DIGITS_OF_A_NAME = 6


@dataclass(frozen=True)
class PlatformRules:
    """Which files the platform may have written.

    :param files: patterns, each for a whole name.
    :param file_bytes: the most that one of them may have.
    """

    files: tuple[str, ...] = PLATFORM_FILES
    file_bytes: int = FILE_BYTES

    def is_file(self, name: str) -> bool:
        """Tell whether a file of this name may be the platform's.

        :param name: the artifact's name.
        """
        return any(re.fullmatch(pattern, name) for pattern in self.files)


def fault_of_platform_file(file: HeldFile, rules: PlatformRules, let_out: Set[bytes]) -> str:
    """Tell what a platform's log holds that such a log does not, or ``""``; never a part of it.

    :param file: the file, with its content.
    :param rules: how long it may be.
    :param let_out: lines of the run's own log; the platform may repeat those.
    """
    if file.content is None or file.size > rules.file_bytes:
        return f"{file.size} bytes, more than the {rules.file_bytes} of a log"
    lines = file.content.split(b"\n")
    strange = [number for number, line in enumerate(lines, 1) if _is_strange(line, let_out)]
    return f"{len(strange)} lines that look like data, the first is line {strange[0]}" if strange else ""


def _is_strange(line: bytes, let_out: Set[bytes]) -> bool:
    if line in let_out:
        return False
    try:
        text = line.decode("utf-8").rstrip("\r\t")
    except UnicodeDecodeError:
        return True
    return not all(letter.isprintable() or letter == "\t" for letter in text) or looks_like_data(line)


def looks_like_data(line: bytes) -> bool:
    """Tell whether a line has a row of numbers, or a token so long that it is no word.

    :param line: the line.
    """
    return bool(_ROW.search(line) or _TOKEN.search(line))


def is_platform_property(name: str, value: str) -> bool:
    """Tell whether a property is one that the platform sets, with a value of the kind that it sets.

    :param name: the property's name.
    :param value: its value.
    """
    return bool(_PROPERTIES.fullmatch(name)) and bool(_PROPERTY_VALUE.fullmatch(value))


def is_value_id(text: str) -> bool:
    """Tell whether this is an identifier as the SDK makes one for each value of a metric.

    :param text: the id.
    """
    return bool(_VALUE_ID.fullmatch(text))


def shown(name: str, number: int) -> str:
    """Return a foreign name for people, or what it is like when it could itself carry data.

    :param name: the name.
    :param number: its place among its kind, from 1, so that it can be found in the cloud.
    """
    digits = sum(letter.isdigit() for letter in name)
    if _PLAIN_NAME.fullmatch(name) and digits <= _MOST_DIGITS_OF_A_NAME:
        return name
    return f"number {number} by name (a name of {len(name)} characters, not repeated here)"
