"""Which names are taken: no path may leave the folder it belongs to, wherever it is written later."""

from __future__ import annotations

import re

from local_site.azure_ml.errors import BadRequestError

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
RESOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
COMPUTE = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,31}")


def check_path(path: str, what: str) -> str:
    """Return the path when it is relative and stays where it is put.

    :param path: a file's name with ``/`` between its parts.
    :param what: what is named, for the message: ``"artifact"``, ``"snapshot file"``.
    :raises BadRequestError: when it is absolute, empty, too long, or has a part that would step out.
    """
    parts = path.split("/")
    bad = any(part in {"", ".", ".."} for part in parts) or "\\" in path or any(ord(char) < 32 for char in path)
    bad = bad or any(0xD800 <= ord(char) <= 0xDFFF for char in path)  # a name that is not UTF-8
    if bad or len(path.encode()) > 1024:
        raise BadRequestError(
            f"The {what} name {path!r} is not allowed: it must be a relative path without '..', empty parts, "
            "backslashes and control characters, in UTF-8, of at most 1,024 bytes."
        )
    return path


def check_name(name: str, pattern: re.Pattern[str], what: str) -> str:
    """Return the name when the pattern allows it.

    :raises BadRequestError: when it does not.
    """
    if not pattern.fullmatch(name):
        raise BadRequestError(f"The {what} name {name!r} is not allowed; it must match {pattern.pattern}.")
    return name
