from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from edge_training import grants
from edge_training.exceptions import ConfigurationError
from edge_training.records import BlobItem, BlobManifest

NOW = datetime(2026, 11, 2, 3, 0, 0, 999, tzinfo=UTC)
MANIFEST = BlobManifest(
    account_url="https://acct.blob.local.azurestack.external",
    container="training-data",
    prefix="p/",
    columns=("a", "b"),
    blobs=(BlobItem("p/1.csv", 3, '"0x1"', "md5:00", "2026-11-01T00:00:00+00:00"),),
)


def test_a_grant_says_exactly_what_the_run_may_read() -> None:
    content = grants.grant_content(
        MANIFEST,
        lambda name: f"https://x/{name}?sig=s",
        NOW,
        dag_run=("dag", "run"),
        api_version="2019-07-07",
        ca_pem="PEM",
    )
    assert json.loads(content) == {
        "version": 1,
        "fingerprint": MANIFEST.fingerprint,
        "expires": "2026-11-02T03:00:00Z",
        "owner": base64.urlsafe_b64encode(b'["dag", "run"]').decode(),
        "api_version": "2019-07-07",
        "ca_pem": "PEM",
        "columns": ["a", "b"],
        "blobs": [
            {"name": "p/1.csv", "url": "https://x/p/1.csv?sig=s", "size": 3, "etag": '"0x1"', "content_hash": "md5:00"}
        ],
    }


def test_a_retry_writes_the_same_file_and_another_dag_run_another_one() -> None:
    name = grants.grant_name("dag", "run")
    assert name == grants.grant_name("dag", "run")
    others = {
        grants.grant_name("dag", "run2"),
        grants.grant_name("dagr", "un"),
        grants.grant_name("dag", "run", "verify_image"),
    }
    assert len({name, *others}) == 4
    assert grants.grant_path("/home/vm/", name) == f"/home/vm/.edge-training/grants/{name}"


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), timedelta(days=7, seconds=1)])
def test_a_grant_that_is_not_short_lived_is_refused(lifetime: timedelta) -> None:
    with pytest.raises(ConfigurationError, match="up to 7 days"):
        grants.grant_expiry(NOW, lifetime)


def test_a_grant_ends_in_utc_and_whole_seconds() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=9)))
    assert grants.grant_expiry(there, timedelta(hours=1)).isoformat() == "2026-11-02T04:00:00+00:00"


OWNER = base64.urlsafe_b64encode('["dag", "manual \\"ü\\" 1"]'.encode()).decode()
LATER = NOW + timedelta(hours=1)


def test_grants_on_the_vm_are_read_and_foreign_files_left_out() -> None:
    name = grants.grant_name("dag", "run")
    output = f"{name} 2026-11-02T03:00:00Z {OWNER}\nnotes.json 2020-01-01T00:00:00Z \n\n"
    assert grants.parse_grants(output) == [
        grants.StoredGrant(name, NOW.replace(microsecond=0), ("dag", 'manual "ü" 1'))
    ]


@pytest.mark.parametrize("line", ["", " ", "  ", " soon not-base64!", " soon e30=", " soon WzEsMl0=", " soon /w=="])
def test_a_damaged_grant_is_listed_without_what_cannot_be_read(line: str) -> None:
    name = grants.grant_name("dag", "run")
    assert grants.parse_grants(f"{name}{line}\n") == [grants.StoredGrant(name, None)]


@pytest.mark.parametrize(
    ("grant", "reason"),
    [
        (grants.StoredGrant("g", NOW, ("dag", "1")), "its permission ended at 2026-11-02T03:00:00Z"),
        (grants.StoredGrant("g", None, ("dag", "1")), "it does not say when it ends"),
        (grants.StoredGrant("g", LATER, ("dag", "over")), "its DAG run over is over"),
        (grants.StoredGrant("g", LATER, ("dag", "1")), None),
        (grants.StoredGrant("g", LATER, ("another airflow's", "over")), None),
        (grants.StoredGrant("g", LATER), None),
    ],
)
def test_a_grant_is_old_when_it_has_ended_or_its_own_dag_run_has(grant: grants.StoredGrant, reason: str | None) -> None:
    found = grants.old_grants([grant], NOW, "dag", lambda _dag, run: run == "over")
    assert [one.reason for one in found] == ([] if reason is None else [reason])
