"""The secrets of one local site: made once by chance, kept in files that only their owner can read."""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from local_site import files
from local_site.errors import LocalSiteError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Credentials:
    """What one has to know to be let in.

    :param folder: The state folder of the site.
    :param storage_key: The key of the storage account, base64 of 64 bytes.
    :param client_id: The service principal of the pipeline.
    :param subscription_id: The subscription of the workspace.
    """

    folder: Path
    storage_key: str
    registry_password: str
    client_id: str
    client_secret: str
    subscription_id: str

    registry_user = "edge"
    tenant_id = "adfs"
    resource_group = "edge"
    workspace = "edge-workspace"

    @classmethod
    def ensure(cls, folder: Path) -> Credentials:
        """Return the secrets of a site, made if there are none.

        :param folder: The state folder of the site.
        """
        path = folder / "secrets.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            made = cls(
                folder=folder,
                storage_key=base64.b64encode(secrets.token_bytes(64)).decode(),
                registry_password=secrets.token_urlsafe(24),
                client_id=str(uuid.uuid4()),
                client_secret=secrets.token_urlsafe(32),
                subscription_id=str(uuid.uuid4()),
            )
            content = {name: value for name, value in asdict(made).items() if name != "folder"}
            files.write(path, json.dumps(content, indent=2), files.PRIVATE)
        credentials = cls.read(folder)
        for name in ("host_key", "client_key"):
            _ensure_key(folder / "vm" / name)
        _ensure_key(credentials.residency_key_file)
        return credentials

    @classmethod
    def read(cls, folder: Path) -> Credentials:
        """Return the secrets that a site has.

        :param folder: The state folder of the site.
        :raises LocalSiteError: The site has none yet, or the file is damaged.
        """
        path = folder / "secrets.json"
        try:
            content = json.loads(path.read_text())
            return cls(folder=folder, **{field.name: content[field.name] for field in fields(cls)[1:]})
        except FileNotFoundError:
            raise LocalSiteError(
                f"There is no local site in {folder} yet. Start one with: python -m local_site up"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise LocalSiteError(
                f"{path} does not hold the secrets of a local site ({error!r}). "
                f"Remove the folder {folder} and run: python -m local_site up"
            ) from error

    @property
    def client_key_file(self) -> Path:
        """The private key that may log in to the training VM, in OpenSSH's format."""
        return self.folder / "vm" / "client_key"

    @property
    def residency_key_file(self) -> Path:
        """The private key that signs residency receipts, in OpenSSH's format; its public half is beside it."""
        return self.folder / "residency" / "residency_key"

    @property
    def client_key(self) -> str:
        """The public half of the client key, as in `authorized_keys`."""
        return self.client_key_file.with_suffix(".pub").read_text().strip()

    @property
    def host_key(self) -> str:
        """The public key of the training VM, to be pinned."""
        try:
            return (self.folder / "vm" / "host_key.pub").read_text().strip()
        except FileNotFoundError:
            raise LocalSiteError(
                f"The training VM in {self.folder} has no host key yet. Make it with: python -m local_site up"
            ) from None


def _ensure_key(path: Path) -> None:
    public = path.with_suffix(".pub")
    if path.exists() and public.exists():
        return
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private_bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public_bytes = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    files.write(path, private_bytes, files.PRIVATE)
    files.write(public, public_bytes + b"\n")
