"""A receipt is one text that only the site's key can have signed, in a chain from which nothing can be taken."""

from __future__ import annotations

import base64
import copy
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from edge_training.exceptions import ConfigurationError, ResidencyError
from edge_training.residency.canonical import canonical, parse_canonical
from edge_training.residency.receipt import check_chain, load_private_key, public_key_text, read_receipt, sign
from tests.unit.residency.receipts import KEY, OTHER_KEY, chain, facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

RECEIPT = chain(3)[2]
PUBLIC = public_key_text(KEY)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value of an object, leaves and branches alike."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield from places(item, (*path, name))


PLACES = list(places(json.loads(RECEIPT.content)))


def changed(path: tuple[Any, ...], change: Any) -> bytes:
    """Return the receipt, canonical again, with one value changed."""
    envelope = copy.deepcopy(json.loads(RECEIPT.content))
    parent = envelope
    for name in path[:-1]:
        parent = parent[name]
    change(parent, path[-1])
    return canonical(envelope)


def remove(parent: Any, name: Any) -> None:
    del parent[name]


def replace(parent: Any, name: Any) -> None:
    value = parent[name]
    if isinstance(value, bool):
        parent[name] = not value
    elif isinstance(value, int):
        parent[name] = value + 1
    elif isinstance(value, str):
        parent[name] = value[:-1] + ("0" if value[-1:] != "0" else "1") if value else "x"
    else:
        parent[name] = None


def test_a_receipt_that_nobody_touched_is_read_as_it_was_signed() -> None:
    assert read_receipt(RECEIPT.content, "It", PUBLIC).body == RECEIPT.body
    assert RECEIPT.body["run"]["id"] == "run-3"


@pytest.mark.parametrize("change", [remove, replace])
@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(str(part) for part in path))
def test_no_field_can_be_changed_or_removed(path: tuple[Any, ...], change: Any) -> None:
    with pytest.raises(ResidencyError):
        read_receipt(changed(path, change), "It", PUBLIC)


def test_a_field_that_is_added_anywhere_is_noticed() -> None:
    def add(parent: Any, name: Any) -> None:
        inner = parent[name]
        if isinstance(inner, dict):
            inner["more"] = 1
        elif isinstance(inner, list):
            inner.append(1)

    branches = [path for path in PLACES if changed(path, add) != RECEIPT.content]
    assert len(branches) > 10
    for path in branches:
        with pytest.raises(ResidencyError):
            read_receipt(changed(path, add), "It", PUBLIC)


def test_no_single_byte_can_be_changed_added_or_dropped() -> None:
    chance = random.Random(1)  # noqa: S311 - the same bytes each time
    content = RECEIPT.content
    for place in range(len(content)):
        other = bytes([content[place] ^ (1 << chance.randrange(8))])
        for forged in (
            content[:place] + other + content[place + 1 :],
            content[:place] + content[place + 1 :],
            content[:place] + other + content[place:],
        ):
            if forged != content:
                with pytest.raises(ResidencyError):
                    read_receipt(forged, "It", PUBLIC)


@pytest.mark.parametrize(
    "same",
    [
        lambda text: text + "\n",
        lambda text: text.rstrip("\n"),
        lambda text: " " + text,
        lambda text: text.replace(":", ": "),
        lambda text: json.dumps(json.loads(text), sort_keys=True),
        lambda text: text.replace("bubblewrap", "bubblewra\\u0070"),
        lambda text: text.replace('{"receipt"', '{"receipt":{},"receipt"'),
        lambda text: text.replace('"sequence":3', '"sequence":3.0'),
    ],
)
def test_the_same_said_in_another_text_is_refused_too(same: Any) -> None:
    other = same(RECEIPT.content.decode())
    assert other != RECEIPT.content.decode()
    with pytest.raises(ResidencyError):
        read_receipt(other.encode(), "It", PUBLIC)


def test_a_receipt_that_another_key_has_signed_is_refused_when_the_key_is_known() -> None:
    forged = chain(1, key=OTHER_KEY)[0]
    assert read_receipt(forged.content, "It").key == public_key_text(OTHER_KEY)
    with pytest.raises(ResidencyError, match="another key"):
        read_receipt(forged.content, "It", PUBLIC)


def test_a_receipt_that_names_the_site_s_key_but_was_signed_with_another_is_refused() -> None:
    body = dict(RECEIPT.body)
    signature = base64.b64encode(OTHER_KEY.sign(canonical(body))).decode()
    with pytest.raises(ResidencyError, match="signed"):
        read_receipt(canonical({"receipt": body, "signature": signature}), "It", PUBLIC)


def test_a_whole_chain_has_no_faults_and_may_begin_later() -> None:
    receipts = chain(5)
    assert check_chain(receipts) == []
    assert check_chain(receipts[2:]) == []
    assert check_chain([]) == []


def test_a_receipt_that_is_taken_out_of_the_middle_is_missed() -> None:
    one, _, three = chain(3)
    assert "missing" in check_chain([one, three])[0]


def test_a_receipt_that_was_signed_anew_breaks_the_chain_behind_it() -> None:
    one, two, three = chain(3)
    forged = sign(
        {**facts("run-2", bytes_out={"total": 0}), **{n: two.body[n] for n in ("issued", "previous", "sequence")}}, KEY
    )
    assert "does not follow" in check_chain([one, forged, three])[0]


def test_receipts_of_two_sites_or_keys_are_no_chain() -> None:
    one, two = chain(2)
    assert "site" in check_chain([one, chain(2, "other")[1]])[0]
    rogue = sign({**facts("run-2"), **{n: two.body[n] for n in ("issued", "previous", "sequence")}}, OTHER_KEY)
    assert "another key" in check_chain([one, rogue])[0]


def test_a_first_receipt_that_is_not_the_first_is_noticed() -> None:
    place = {"issued": "2026-11-21T00:00:00Z", "previous": "sha256:" + "a" * 64, "sequence": 1}
    assert "first" in check_chain([sign({**facts(), **place}, KEY)])[0]


def pem(key: PrivateKeyTypes, form: serialization.PrivateFormat, passphrase: bytes = b"") -> str:
    closed = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, closed).decode()


@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.OpenSSH])
def test_a_signing_key_is_read_in_both_formats(form: serialization.PrivateFormat) -> None:
    assert public_key_text(load_private_key(pem(KEY, form), "Connection 'k'")) == PUBLIC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no key",
        pem(KEY, serialization.PrivateFormat.PKCS8)[:-40],
        pem(KEY, serialization.PrivateFormat.PKCS8, b"closed"),
        pem(rsa.generate_private_key(65537, 2048), serialization.PrivateFormat.PKCS8),
        PUBLIC,
    ],
    ids=["empty", "no key", "cut", "with a passphrase", "RSA", "the public half"],
)
def test_what_is_no_signing_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError, match="Connection 'k'") as caught:
        load_private_key(text, "Connection 'k'")
    assert not text or text[30:60] not in str(caught.value) or not text[30:60]


@pytest.mark.parametrize("value", [1.5, float("nan"), {1: 2}, b"x", "\ud800", {"a": [1.0]}])
def test_canonical_json_refuses_what_has_more_than_one_text(value: Any) -> None:
    with pytest.raises(ResidencyError):
        canonical(value)


@pytest.mark.parametrize("text", [b"", b"{", b"NaN\n", b'{"a":1,"a":1}\n', b"\xff\n", b"[" * 100000])
def test_what_is_no_canonical_json_is_refused(text: bytes) -> None:
    with pytest.raises(ResidencyError):
        parse_canonical(text, "It")
