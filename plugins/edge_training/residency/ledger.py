"""Adds receipts to a site's chain, also when two DAG runs do so at once."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

from edge_training.exceptions import ResidencyError, ServiceError
from edge_training.residency.canonical import canonical, parse_canonical
from edge_training.residency.receipt import NO_RECEIPT, public_key_text, read_receipt, sign

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from edge_training.residency.receipt import SignedReceipt

ATTEMPTS = 20
"""So often another DAG run may be faster before this one gives up."""

PLACE_FIELDS = frozenset(["issued", "key", "previous", "sequence", "version"])
"""What a receipt says of itself, apart from the run."""


class Listed(Protocol):
    """A receipt as a store lists it."""

    @property
    def name(self) -> str:
        """Return its name."""

    @property
    def sequence(self) -> int:
        """Return the number in its name."""

    @property
    def run_id(self) -> str:
        """Return the run that it says it is for."""


class Store(Protocol):
    """Where receipts are kept, each under a name that is written once."""

    def name_of(self, site: str, sequence: int) -> str:
        """Return the name of a receipt."""

    def receipts(self, site: str) -> Sequence[Listed]:
        """Return the receipts of a site, by number."""

    def receipt(self, name: str) -> bytes:
        """Return a receipt as it is stored."""

    def add(self, name: str, content: bytes, run_id: str) -> bool:
        """Store a receipt under a new name, and tell whether the name was new."""


def receipts_of(store: Store, site: str, run_id: str, key: str) -> list[SignedReceipt]:
    """Return the receipts that a run has already, the newest first.

    :param store: where they are kept.
    :param site: the site's name.
    :param run_id: the run's id in Azure ML.
    :param key: the site's public key.
    :raises ResidencyError: when one of them was changed or is signed with another key.
    """
    return _of_run(store, _contiguous(store.receipts(site), site), site, run_id, key)


def issue(store: Store, facts: Mapping[str, Any], key: Ed25519PrivateKey, issued: str) -> SignedReceipt:
    """Sign a receipt and add it to the site's chain; the same facts again give the receipt that they have already.

    :param store: where receipts are kept.
    :param facts: what the receipt says, without its place in the chain.
    :param key: the site's signing key.
    :param issued: the present, ISO 8601 in UTC.
    :raises ResidencyError: when the chain was tampered with.
    :raises ServiceError: when other DAG runs are faster again and again.
    """
    site, run_id = str(facts["site"]), str(facts["run"]["id"])
    public = public_key_text(key)
    facts = parse_canonical(canonical(dict(facts)), "The receipt")
    for _ in range(ATTEMPTS):
        # Looked for each time: the answer to a request that did store the receipt may have been lost.
        listed = _contiguous(store.receipts(site), site)
        for found in _of_run(store, listed, site, run_id, public):
            if {field: value for field, value in found.body.items() if field not in PLACE_FIELDS} == facts:
                return found
        last = _read(store, listed[-1], site, public) if listed else None
        sequence = last.sequence + 1 if last else 1
        previous = last.digest if last else NO_RECEIPT
        receipt = sign({**facts, "issued": issued, "previous": previous, "sequence": sequence}, key)
        if store.add(store.name_of(site, sequence), receipt.content, run_id):
            return receipt
    raise ServiceError(
        f"The receipt of run {run_id} could not be added to the chain of site '{site}': {ATTEMPTS} times another one was faster.",
        service="receipt store",
        retryable=True,
    )


def _of_run(store: Store, listed: Sequence[Listed], site: str, run_id: str, key: str) -> list[SignedReceipt]:
    found = [_read(store, one, site, key) for one in reversed(listed) if one.run_id == run_id]
    return [receipt for receipt in found if receipt.body["run"]["id"] == run_id]


def _contiguous(listed: Sequence[Listed], site: str) -> Sequence[Listed]:
    """Refuse a chain with a gap; old receipts may have been taken away from its beginning, to be kept elsewhere."""
    for before, after in pairwise(listed):
        if after.sequence != before.sequence + 1:
            raise ResidencyError(
                f"Receipts of site '{site}' are missing: after number {before.sequence} comes {after.sequence}. Somebody deleted them; "
                "bring them back from where receipts are archived before anything is trained."
            )
    return listed


def _read(store: Store, listed: Listed, site: str, key: str) -> SignedReceipt:
    what = f"Receipt '{listed.name}'"
    receipt = read_receipt(store.receipt(listed.name), what, key)
    if (receipt.site, receipt.sequence) != (site, listed.sequence):
        raise ResidencyError(f"{what} is receipt {receipt.sequence} of site '{receipt.site}': somebody put it there.")
    return receipt
