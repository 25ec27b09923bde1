"""What a file of code must not be: data, a key, a program, or so large that it is none of ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import PurePosixPath

MAXIMUM_FILE_BYTES = 1024 * 1024

DATA_SUFFIXES = frozenset(
    [
        ".arrow",
        ".avro",
        ".bz2",
        ".csv",
        ".db",
        ".dcm",
        ".dta",
        ".duckdb",
        ".feather",
        ".gz",
        ".h5",
        ".hdf5",
        ".ipynb",
        ".joblib",
        ".jsonl",
        ".mat",
        ".ndjson",
        ".npy",
        ".npz",
        ".orc",
        ".parquet",
        ".pickle",
        ".pkl",
        ".psv",
        ".rar",
        ".rds",
        ".sas7bdat",
        ".sav",
        ".sqlite",
        ".sqlite3",
        ".tar",
        ".tsv",
        ".xls",
        ".xlsx",
        ".xpt",
        ".xz",
        ".zip",
        ".zst",
        ".7z",
    ]
)
KEY_SUFFIXES = frozenset(
    [".gpg", ".jks", ".kdbx", ".key", ".keystore", ".p12", ".pem", ".pfx", ".ppk", ".publishsettings"]
)
KEY_NAMES = frozenset(
    [
        ".env",
        ".htpasswd",
        ".netrc",
        ".npmrc",
        ".pgpass",
        ".pypirc",
        "credentials",
        "credentials.json",
        "id_dsa",
        "id_ecdsa",
        "id_ed25519",
        "id_rsa",
        "known_hosts",
        "secrets.json",
        "secrets.toml",
        "secrets.yaml",
        "secrets.yml",
    ]
)
_SECRETS = {
    "a private key": re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    "a storage account key": re.compile(
        rb"(?i)(?:account_?key|shared_?access_?key)[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9+/]{40,}={0,2}"
    ),
    "a shared access signature": re.compile(rb"(?i)[?&](?:sv|se|sr|sp|spr)=[^\s\"']*&sig=[A-Za-z0-9%+/=]{20,}"),
    "a token": re.compile(rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
}


def fault_of_name(path: PurePosixPath) -> str:
    """Tell what is wrong with a file by its name alone.

    :param path: relative to its folder.
    :returns: a half sentence that follows the file's name, or ``""``.
    """
    name = path.name.lower()
    if name in KEY_NAMES or path.suffix.lower() in KEY_SUFFIXES or name.startswith(".env."):
        return "is named like a key or a password"
    if found := [suffix for suffix in path.suffixes if suffix.lower() in DATA_SUFFIXES]:
        return f"is of a data format ({found[0]})"
    return ""


def fault_of_content(content: bytes) -> str:
    """Tell what is wrong with a file by its bytes.

    :param content: the whole file.
    :returns: a half sentence that follows the file's name, or ``""``; never a part of the content.
    """
    if len(content) > MAXIMUM_FILE_BYTES:
        return f"has {len(content)} bytes; code has at most {MAXIMUM_FILE_BYTES}"
    if b"\0" in content or not _is_text(content):
        return "is not text, so it cannot be looked through"
    for what, pattern in _SECRETS.items():
        if pattern.search(content):
            return f"holds {what}"
    return ""


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
