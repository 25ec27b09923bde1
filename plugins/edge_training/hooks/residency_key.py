"""The key that a site signs its receipts with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from edge_training.exceptions import ConfigurationError
from edge_training.hooks.connections import read_connection
from edge_training.residency.receipt import load_private_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class ResidencyKeyHook(BaseHook):
    """Reads the site's signing key: an Ed25519 private key in PEM, as the connection's password or as a file that extra ``key_file`` names.

    Make one with ``ssh-keygen -t ed25519 -N '' -f residency_key``; whoever checks receipts is given ``residency_key.pub``.

    :param conn_id: Airflow connection of type ``ed25519``.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "residency_key"
    conn_type = "ed25519"
    hook_name = "Ed25519 signing key"
    extras = frozenset({"key_file"})

    def __init__(self, conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.conn_id = conn_id

    def key(self) -> Ed25519PrivateKey:
        """Return the key.

        :raises ConfigurationError: when there is none, or it is of another kind.
        """
        settings = read_connection(self.conn_id, {self.conn_type}, self.extras)
        path = settings.text("key_file")
        if bool(path) == bool(settings.password):
            raise ConfigurationError(
                f"Connection '{self.conn_id}' must have exactly one of password (the private key's text) and extra key_file (its path)."
            )
        where = f"Connection '{self.conn_id}'"
        if not path:
            return load_private_key(settings.password, where)
        try:
            text = Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigurationError(f"{where}: key_file '{path}' cannot be read on this machine: {reason}.") from None
        return load_private_key(text, where)
