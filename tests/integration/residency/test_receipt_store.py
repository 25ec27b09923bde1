"""Receipts are kept beside the data under names that the store lets nobody write twice."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ConfigurationError
from edge_training.hooks.receipt_store import ReceiptStore
from edge_training.hooks.residency_key import ResidencyKeyHook
from edge_training.residency.ledger import issue
from edge_training.residency.receipt import public_key_text
from edge_training.residency.verify import verify
from tests.unit.residency.receipts import facts

if TYPE_CHECKING:
    from tests.airflow_harness import AirflowConnection


@pytest.fixture
def container(residency: dict[str, Any]) -> str:
    """Name a container that does not exist."""
    return f"receipts-{uuid.uuid4().hex[:12]}"


def test_dag_runs_that_end_at_the_same_moment_make_one_chain(container: str) -> None:
    key = ResidencyKeyHook().key()

    def add(number: int) -> None:
        # Each worker has a client of its own.
        issue(ReceiptStore(container), facts(f"run-{number}"), key, "2026-11-21T00:00:00Z")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = ReceiptStore(container)
    listed = store.receipts("local")
    verdict = verify([(one.name, store.receipt(one.name)) for one in listed], public_key_text(key))
    assert verdict.faults == ()
    assert [one.sequence for one in listed] == [1, 2, 3, 4]
    assert sorted(one.run_id for one in listed) == [f"run-{number}" for number in range(4)]


def test_a_name_that_is_taken_keeps_its_content(container: str) -> None:
    store = ReceiptStore(container)
    assert store.receipts("local") == []
    name = store.name_of("local", 1)
    assert store.add(name, b"first", "run-1")
    assert not store.add(name, b"second", "run-2")
    assert store.receipt(name) == b"first"
    assert not ReceiptStore(container).receipts("other")


def test_a_key_is_read_from_its_text_too_and_a_wrong_connection_is_named(
    residency: dict[str, Any], airflow_connection: AirflowConnection, tmp_path: Path
) -> None:
    of_file = public_key_text(ResidencyKeyHook().key())
    text = Path(residency["LOCAL_SITE_RESIDENCY_KEY_FILE"]).read_text(encoding="ascii")
    airflow_connection("as_text", conn_type="ed25519", password=text)
    assert public_key_text(ResidencyKeyHook("as_text").key()) == of_file
    for fields in (
        {"conn_type": "ed25519"},
        {"conn_type": "ed25519", "password": text, "extra": {"key_file": "x"}},
        {"conn_type": "ed25519", "extra": {"key_file": str(tmp_path / "none")}},
        {"conn_type": "ssh", "password": text},
        {"conn_type": "ed25519", "password": "no key"},
    ):
        airflow_connection("wrong", **fields)
        with pytest.raises(ConfigurationError, match="wrong") as caught:
            ResidencyKeyHook("wrong").key()
        assert "PRIVATE KEY-----\n" not in str(caught.value)
