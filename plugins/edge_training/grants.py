"""A grant: a short-lived, read-only permission for exactly the verified blobs. Pure: imports neither Airflow nor Azure.

It is a JSON file on the training VM, in a folder that only the training account can read; it never travels through Azure ML.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from edge_training.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_training.records import BlobManifest

GRANT_VERSION = 1
# Below the account's home directory.
GRANT_FOLDER = ".edge-training/grants"
MAXIMUM_LIFETIME = timedelta(days=7)
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_NAME = re.compile(r"[0-9a-f]{32}\.json")


@dataclass(frozen=True)
class StoredGrant:
    """A grant that lies on the VM.

    :param name: its file name.
    :param expires: when its permission ends, or ``None`` when the file does not say.
    :param dag_run: ids of the DAG and the DAG run that it was made for, or ``None`` when the file does not say.
    """

    name: str
    expires: datetime | None
    dag_run: tuple[str, str] | None = None


def grant_name(dag_id: str, run_id: str, purpose: str = "") -> str:
    """Return the file name of a DAG run's grant: the same for every try, so that a retry replaces it.

    :param dag_id: the DAG's id.
    :param run_id: the DAG run's id.
    :param purpose: what it is for when it is not the run's own.
    """
    words = [dag_id, run_id, *([purpose] if purpose else [])]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32] + ".json"


def grant_path(home: str, name: str) -> str:
    """Return a grant's absolute path on the VM.

    :param home: the account's home directory.
    :param name: the grant's file name.
    """
    return f"{home.rstrip('/')}/{GRANT_FOLDER}/{name}"


def grant_expiry(now: datetime, lifetime: timedelta) -> datetime:
    """Return when a grant that is made now ends, in whole seconds.

    :param now: the present, with time zone.
    :param lifetime: how long it is valid.
    :raises ConfigurationError: when that is not more than nothing and at most a week.
    """
    if not timedelta(0) < lifetime <= MAXIMUM_LIFETIME:
        raise ConfigurationError(
            f"A grant may live for up to {MAXIMUM_LIFETIME.days} days, found {lifetime}: make it a little longer than the longest training."
        )
    return (now.astimezone(UTC) + lifetime).replace(microsecond=0)


def grant_content(
    manifest: BlobManifest,
    sign: Callable[[str], str],
    expires: datetime,
    *,
    dag_run: tuple[str, str],
    api_version: str,
    ca_pem: str,
) -> bytes:
    """Return a grant's file content.

    :param manifest: the verified blobs.
    :param sign: makes the address with permission of a blob's name.
    :param expires: when the permissions end, with time zone.
    :param dag_run: ids of the DAG and the DAG run that it is made for.
    :param api_version: the version that the blob store is spoken to with.
    :param ca_pem: the authority that signed the store's certificate, or ``""`` for the VM's own authorities.
    """
    grant = {
        "version": GRANT_VERSION,
        "fingerprint": manifest.fingerprint,
        "expires": time_text(expires),
        "owner": _owner_text(*dag_run),
        "api_version": api_version,
        "ca_pem": ca_pem,
        "columns": list(manifest.columns),
        "blobs": [
            {
                "name": blob.name,
                "url": sign(blob.name),
                "size": blob.size,
                "etag": blob.etag,
                "content_hash": blob.content_hash,
            }
            for blob in manifest.blobs
        ],
    }
    return json.dumps(grant).encode()


def time_text(moment: datetime) -> str:
    """Return a moment as ISO 8601 in UTC, to the second.

    :param moment: the moment, with time zone.
    """
    return moment.astimezone(UTC).strftime(_TIME)


# Prints "name expires owner" of each grant. Both stand among the first keys, so a grant need not be read whole; what a broken
# connection left of an unfinished grant is removed on the way.
LIST_GRANTS = r"""
cd "$HOME/.edge-training/grants" 2>/dev/null || exit 0
find . -maxdepth 1 -name '.*.tmp' -mmin +60 -exec rm -f {} +
for file in *.json; do
  [ -f "$file" ] || continue
  head=$(head -c 4000 "$file")
  field() { printf '%s\n' "$head" | sed -n 's/.*"'"$1"'": "\([^"]*\)".*/\1/p'; }
  printf '%s %s %s\n' "$file" "$(field expires)" "$(field owner)"
done
"""


def parse_grants(output: str) -> list[StoredGrant]:
    """Read what ``LIST_GRANTS`` printed; files that are not grants are left out.

    :param output: lines of ``name expires owner``; the last two may be empty.
    """
    lines = ((*line.split(" "), "", "")[:3] for line in output.splitlines())
    return [
        StoredGrant(name, _moment(expires), _owner(owner)) for name, expires, owner in lines if _NAME.fullmatch(name)
    ]


def _owner_text(dag_id: str, run_id: str) -> str:
    """Return the ids in letters that need no quoting, wherever they pass."""
    return base64.urlsafe_b64encode(json.dumps([dag_id, run_id]).encode()).decode()


def _owner(text: str) -> tuple[str, str] | None:
    try:
        dag_id, run_id = json.loads(base64.urlsafe_b64decode(text))
    except (binascii.Error, ValueError, TypeError):
        return None
    return (dag_id, run_id) if isinstance(dag_id, str) and isinstance(run_id, str) else None


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


@dataclass(frozen=True)
class OldGrant:
    """A grant that nobody needs any more.

    :param name: its file name.
    :param reason: why, to end the sentence "Removed grant ...: ".
    """

    name: str
    reason: str


def old_grants(
    grants: list[StoredGrant], now: datetime, dag_id: str, is_over: Callable[[str, str], bool]
) -> list[OldGrant]:
    """Return the grants whose permission has ended or which do not say when it does, and those of DAG runs that are over.

    :param grants: the grants on the VM.
    :param now: the present, with time zone.
    :param dag_id: only DAG runs of this DAG are asked for: another Airflow may use the same VM, whose DAG runs this one does not know.
    :param is_over: tells of a DAG and a DAG run whether it is over.
    """
    found = []
    for grant in grants:
        if grant.expires is None:
            found.append(OldGrant(grant.name, "it does not say when it ends"))
        elif grant.expires <= now:
            found.append(OldGrant(grant.name, f"its permission ended at {time_text(grant.expires)}"))
        elif grant.dag_run is not None and grant.dag_run[0] == dag_id and is_over(*grant.dag_run):
            found.append(OldGrant(grant.name, f"its DAG run {grant.dag_run[1]} is over"))
    return found
