"""The receipt: what left the premises for one run, signed, and chained to the site's receipt before it.

A receipt is the canonical text of ``{"receipt": {...}, "signature": "<base64>"}``. The signature (Ed25519) is over the canonical text of
the inner object, and the outer text must be canonical too: there is no byte of a receipt that can be changed without being noticed. The
inner object names the digest of the site's previous receipt, so that none can be taken out of the middle or put in later.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge_training.exceptions import ConfigurationError, ResidencyError
from edge_training.residency.canonical import canonical, digest_of, parse_canonical

VERSION = 1
NO_RECEIPT = ""
"""What the first receipt of a site names as the one before it."""
FIELDS = frozenset(
    [
        "audit",
        "bytes_out",
        "code",
        "data",
        "issued",
        "items",
        "key",
        "previous",
        "run",
        "sandbox",
        "sequence",
        "site",
        "version",
        "withheld",
        "wiped",
    ]
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SIGNATURE_BYTES = 64

Body = Mapping[str, Any]


@dataclass(frozen=True)
class SignedReceipt:
    """A receipt whose signature holds.

    :param content: the receipt as it is stored.
    :param body: what it says.
    """

    content: bytes
    body: dict[str, Any]

    @property
    def digest(self) -> str:
        """Return what names the receipt, in the next one and on run, model and image."""
        return digest_of(self.content)

    @property
    def site(self) -> str:
        """Return the site's name."""
        return str(self.body["site"])

    @property
    def sequence(self) -> int:
        """Return the receipt's number in the site's chain, from 1."""
        return int(self.body["sequence"])

    @property
    def previous(self) -> str:
        """Return the digest of the site's receipt before it, or :data:`NO_RECEIPT`."""
        return str(self.body["previous"])

    @property
    def key(self) -> str:
        """Return the public key that it is signed with."""
        return str(self.body["key"])


def load_private_key(text: str, where: str) -> Ed25519PrivateKey:
    """Read the site's signing key.

    :param text: a PEM file's text, PKCS #8 or OpenSSH, without a passphrase.
    :param where: where it came from, for the message.
    :raises ConfigurationError: when it is no such key; the message repeats nothing of it.
    """
    content = text.strip().encode() + b"\n"
    is_openssh = b"OPENSSH PRIVATE KEY" in content
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        key = load(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"{where} holds no private key in PEM without a passphrase. Make one with: ssh-keygen -t ed25519 -N '' -f residency_key"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{where} holds a key of another kind: receipts are signed with Ed25519.")
    return key


def public_key_text(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return a public key as one line of text, ``ssh-ed25519 AAAA...``.

    :param key: the key, or its private half.
    """
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def sign(body: Body, key: Ed25519PrivateKey) -> SignedReceipt:
    """Sign a receipt.

    :param body: what it says, all of :data:`FIELDS` but ``key`` and ``version``.
    :param key: the site's signing key.
    :raises ResidencyError: when the body is not that of a receipt.
    """
    whole = {**body, "version": VERSION, "key": public_key_text(key)}
    _check_fields(whole, "The receipt")
    signature = base64.b64encode(key.sign(canonical(whole))).decode()
    return read_receipt(canonical({"receipt": whole, "signature": signature}), "The receipt")


def read_receipt(content: bytes, what: str, key: str = "") -> SignedReceipt:
    """Read a receipt and check its signature.

    :param content: the receipt as it is stored.
    :param what: which receipt, to begin a sentence.
    :param key: the public key that must have signed it; ``""`` for the one that it names itself.
    :raises ResidencyError: when any byte of it was changed, or another key has signed it.
    """
    envelope = parse_canonical(content, what)
    if not isinstance(envelope, dict) or set(envelope) != {"receipt", "signature"}:
        raise ResidencyError(f"{what} is no receipt: it has not exactly 'receipt' and 'signature'.")
    body = envelope["receipt"]
    _check_fields(body, what)
    if key and body["key"] != key:
        raise ResidencyError(f"{what} is signed with another key ({body['key']}) than the site's ({key}).")
    try:
        _public_key(body["key"], what).verify(_signature(envelope["signature"], what), canonical(body))
    except InvalidSignature:
        raise ResidencyError(f"{what} was changed after it was signed, or signed with another key.") from None
    return SignedReceipt(content, body)


def check_chain(receipts: list[SignedReceipt]) -> list[str]:
    """Return what is wrong with the order of a site's receipts, one sentence each.

    :param receipts: receipts whose signatures hold, in the order of their numbers; they need not begin with the first.
    """
    faults: list[str] = []
    for before, after in pairwise(receipts):
        if after.site != before.site:
            faults.append(f"Receipt {after.sequence} is of site '{after.site}', the one before it of '{before.site}'.")
        elif after.sequence != before.sequence + 1:
            faults.append(
                f"Between receipts {before.sequence} and {after.sequence} of '{after.site}' some are missing."
            )
        elif after.previous != before.digest:
            faults.append(
                f"Receipt {after.sequence} of '{after.site}' does not follow receipt {before.sequence} as it is now."
            )
        elif after.key != before.key:
            faults.append(f"From receipt {after.sequence} of '{after.site}' on another key signs.")
    if receipts and (receipts[0].sequence == 1) != (receipts[0].previous == NO_RECEIPT):
        faults.append(
            f"Receipt {receipts[0].sequence} of '{receipts[0].site}' does not say rightly whether it is the first."
        )
    return faults


def _check_fields(body: object, what: str) -> None:
    if not isinstance(body, dict) or set(body) != FIELDS:
        raise ResidencyError(f"{what} has not the fields of a receipt of version {VERSION}.")
    sequence, previous = body["sequence"], body["previous"]
    if body["version"] != VERSION or not isinstance(sequence, int) or isinstance(sequence, bool) or sequence < 1:
        raise ResidencyError(f"{what} is of another version than {VERSION}, or has no number.")
    if not isinstance(body["site"], str) or not isinstance(body["key"], str) or not isinstance(previous, str):
        raise ResidencyError(f"{what} names its site, key or predecessor by something that is no text.")
    if previous != NO_RECEIPT and not _DIGEST.fullmatch(previous):
        raise ResidencyError(f"{what} names its predecessor by something that is no digest.")


def _public_key(text: str, what: str) -> Ed25519PublicKey:
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey) or public_key_text(key) != text:
        raise ResidencyError(f"{what} names no Ed25519 key that could have signed it.")
    return key


def _signature(text: object, what: str) -> bytes:
    """Read the signature; its base64 has one form only."""
    try:
        signature = base64.b64decode(str(text), validate=True)
    except ValueError:
        signature = b""
    if len(signature) != _SIGNATURE_BYTES or base64.b64encode(signature).decode() != text:
        raise ResidencyError(f"{what} was changed: its signature is none.")
    return signature
