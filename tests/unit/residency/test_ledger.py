"""Receipts are added to a site's chain one after the other, once for a run, and never to a chain that somebody tampered with."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from edge_training.exceptions import ResidencyError, ServiceError
from edge_training.residency.ledger import ATTEMPTS, issue, receipts_of
from edge_training.residency.receipt import public_key_text, read_receipt, sign
from edge_training.residency.verify import verify
from tests.unit.residency.receipts import KEY, OTHER_KEY, chain, facts

NOW = "2026-11-21T00:00:00Z"


@dataclass(frozen=True)
class Listed:
    name: str
    sequence: int
    run_id: str


@dataclass
class Store:
    """Receipts in memory."""

    kept: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    lose_answer: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def name_of(self, site: str, sequence: int) -> str:
        return f"{site}/{sequence:08d}.json"

    def receipts(self, site: str) -> list[Listed]:
        return [
            Listed(name, int(name[-13:-5]), run_id)
            for name, (_, run_id) in sorted(self.kept.items())
            if name.startswith(f"{site}/")
        ]

    def receipt(self, name: str) -> bytes:
        return self.kept[name][0]

    def add(self, name: str, content: bytes, run_id: str) -> bool:
        with self.lock:
            if name in self.kept:
                return False
            self.kept[name] = content, run_id
            lost, self.lose_answer = self.lose_answer, False
            return not lost

    def contents(self) -> list[tuple[str, bytes]]:
        return [(name, content) for name, (content, _) in self.kept.items()]


def test_receipts_follow_each_other_and_each_run_has_one() -> None:
    store = Store()
    made = [issue(store, facts(f"run-{number}"), KEY, NOW) for number in (1, 2, 3)]
    assert [receipt.sequence for receipt in made] == [1, 2, 3]
    assert [receipt.previous for receipt in made] == ["", made[0].digest, made[1].digest]
    assert issue(store, facts("run-2"), KEY, "later") == made[1]
    assert len(store.kept) == 3
    assert verify(store.contents()).faults == ()


def test_other_facts_about_the_same_run_are_another_receipt_and_both_stay() -> None:
    store = Store()
    first = issue(store, facts("run-1"), KEY, NOW)
    second = issue(store, facts("run-1", bytes_out={"total": 10}), KEY, NOW)
    assert (first.sequence, second.sequence) == (1, 2)
    assert receipts_of(store, "local", "run-1", public_key_text(KEY)) == [second, first]


def test_a_receipt_whose_answer_was_lost_is_found_and_not_made_twice() -> None:
    store = Store(lose_answer=True)
    assert issue(store, facts("run-1"), KEY, NOW).sequence == 1
    assert len(store.kept) == 1


def test_many_dag_runs_at_once_make_one_chain_without_a_gap() -> None:
    store = Store()
    threads = [threading.Thread(target=issue, args=(store, facts(f"run-{n}"), KEY, NOW)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = verify(store.contents(), public_key_text(KEY))
    assert verdict.faults == ()
    assert [receipt.sequence for receipt in verdict.receipts] == list(range(1, 9))


def test_a_store_that_never_takes_a_receipt_ends_in_an_error_that_may_be_tried_again() -> None:
    class Full(Store):
        tries = 0

        def add(self, name: str, content: bytes, run_id: str) -> bool:
            self.tries += 1
            return False

    store = Full()
    with pytest.raises(ServiceError) as caught:
        issue(store, facts(), KEY, NOW)
    assert caught.value.retryable
    assert store.tries == ATTEMPTS


def planted() -> Store:
    """Return a store with three receipts."""
    store = Store()
    for receipt in chain(3):
        store.kept[store.name_of("local", receipt.sequence)] = receipt.content, receipt.body["run"]["id"]
    return store


def test_nothing_is_added_to_a_chain_with_a_gap() -> None:
    store = planted()
    del store.kept[store.name_of("local", 2)]
    with pytest.raises(ResidencyError, match="missing"):
        issue(store, facts("run-9"), KEY, NOW)


def test_a_chain_whose_beginning_was_archived_goes_on() -> None:
    store = planted()
    del store.kept[store.name_of("local", 1)]
    assert issue(store, facts("run-9"), KEY, NOW).sequence == 4


def test_nothing_is_added_to_a_receipt_of_another_key_site_or_number_or_to_one_that_was_changed() -> None:
    place = {"issued": NOW, "previous": "sha256:" + "a" * 64, "sequence": 3}
    for content in (
        chain(3, key=OTHER_KEY)[2].content,
        sign({**facts(site="other"), **place}, KEY).content,
        sign({**facts(), **place, "sequence": 7}, KEY).content,
        chain(3)[2].content.replace(b"model.onnx", b"model.onny"),
    ):
        store = planted()
        store.kept[store.name_of("local", 3)] = content, "run-3"
        with pytest.raises(ResidencyError):
            issue(store, facts("run-9"), KEY, NOW)
        assert len(store.kept) == 3


def test_what_the_store_says_of_a_receipt_is_not_believed() -> None:
    store = planted()
    content, _ = store.kept[store.name_of("local", 2)]
    store.kept[store.name_of("local", 2)] = content, "run-9"
    assert receipts_of(store, "local", "run-9", public_key_text(KEY)) == []
    assert issue(store, facts("run-9"), KEY, NOW).sequence == 4
    assert read_receipt(content, "It").body["run"]["id"] == "run-2"
