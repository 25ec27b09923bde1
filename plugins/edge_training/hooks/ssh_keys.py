"""SSH keys: the host key that is pinned, and the private key to log in with."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from edge_training.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_training.hooks.connections import ConnectionSettings

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
# What to ask the server for, by the type of its key: it shows a key of a type that the client asks for.
_ALGORITHMS: dict[str, tuple[str, ...]] = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
_KEY_CLASSES: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


@dataclass(frozen=True)
class PinnedHostKey:
    """The host key that a server must show.

    :param fingerprint: ``SHA256:...`` as ``ssh-keygen -l`` prints it.
    :param algorithms: the host key algorithms to ask for, one group after the other, until the pinned key is shown.
    """

    fingerprint: str
    algorithms: tuple[tuple[str, ...], ...]


def parse_host_key(text: str, conn_id: str) -> PinnedHostKey:
    """Read a pinned host key.

    :param text: a line of a ``.pub`` file or of ``known_hosts`` (``ssh-ed25519 AAAA...``), or a fingerprint (``SHA256:...``).
    :param conn_id: the connection that it stands in, for messages.
    :raises ConfigurationError: when it is neither, or of a type that is not accepted.
    """
    if _FINGERPRINT.fullmatch(text.rstrip("=")):
        return PinnedHostKey(text.rstrip("="), tuple(_ALGORITHMS.values()))
    words = text.split()
    kind = next((word for word in words if word in _ALGORITHMS), None)
    following = words[words.index(kind) + 1 :] if kind else []
    blob = _decoded(following[0]) if following else b""
    # A key starts with the name of its own type, after four bytes of length.
    if not kind or blob[4 : 4 + len(kind)] != kind.encode():
        raise ConfigurationError(
            f"Extra host_key of connection '{conn_id}' is not a host key: expected a line such as 'ssh-ed25519 AAAA...' "
            f"({', '.join(_ALGORITHMS)}) or a fingerprint 'SHA256:...'. `ssh-keyscan HOST` prints it; compare it on the VM's console."
        )
    return PinnedHostKey(fingerprint_of(blob), (_ALGORITHMS[kind],))


def fingerprint_of(key: bytes) -> str:
    """Return a public key's fingerprint, ``SHA256:...`` as ``ssh-keygen -l`` prints it.

    :param key: the key in SSH's wire format.
    """
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def load_private_key(settings: ConnectionSettings) -> paramiko.PKey | None:
    """Return the private key that a connection names, or ``None`` when it names none.

    :param settings: the connection, with extra ``key_file`` or ``private_key``, and ``private_key_passphrase`` when it has one.
    :raises ConfigurationError: when the key cannot be read.
    """
    path, text = settings.text("key_file"), settings.text("private_key")
    if path and text:
        raise ConfigurationError(f"Connection '{settings.conn_id}' has both extra key_file and private_key: keep one.")
    if path:
        try:
            text = Path(path).expanduser().read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"Extra key_file of connection '{settings.conn_id}' names '{path}', which cannot be read: "
                f"{getattr(error, 'strerror', None) or 'it is not a text file'}."
            ) from None
    return _parsed(text, settings.text("private_key_passphrase") or None, settings.conn_id) if text else None


def _parsed(text: str, passphrase: str | None, conn_id: str) -> paramiko.PKey:
    needs_passphrase = False
    for kind in _KEY_CLASSES:
        try:
            return kind.from_private_key(io.StringIO(text + "\n"), passphrase)
        except paramiko.PasswordRequiredException:
            needs_passphrase = True
        except (paramiko.SSHException, ValueError, IndexError):
            continue
    advice = (
        "it is encrypted: set extra private_key_passphrase"
        if needs_passphrase
        else "expected an Ed25519, ECDSA or RSA key as ssh-keygen writes it, and its passphrase in private_key_passphrase"
    )
    raise ConfigurationError(f"The private key of connection '{conn_id}' cannot be used: {advice}.")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


def all_algorithms() -> Sequence[str]:
    """Return every host key algorithm that is accepted, to learn which key a server would show."""
    return [name for group in _ALGORITHMS.values() for name in group]
