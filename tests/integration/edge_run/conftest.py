"""Snapshots to run as Azure ML would, against a blob store that can be told to misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edge_training.residency.code import stage_source
from tests.integration.edge_run.blob_server import BlobServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SCRIPTS = Path(__file__).parents[3] / "include" / "training_scripts"
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


@dataclass
class Outcome:
    """What a run left behind.

    :param status: the process's exit status.
    :param log: everything it printed.
    :param record: ``outputs/edge_run.json``.
    :param outputs: names of the files in ``outputs``.
    """

    status: int
    log: str
    record: dict[str, Any]
    outputs: list[str]

    @property
    def verdicts(self) -> Counter[tuple[str, str]]:
        """Count the items by kind and verdict."""
        return Counter((item["kind"], item["verdict"]) for item in self.record["items"])


@dataclass
class Site:
    """A VM's account with one snapshot on it, and the store that it may read from.

    :param store: the blob store.
    :param home: the account's home.
    :param snapshot: the snapshot's root.
    :param python: the interpreter that trains.
    :param owner: the account's number, when it is another than ours.
    :param sandbox: the kind of sandbox that the policy demands, when it demands one.
    """

    store: BlobServer
    home: Path
    snapshot: Path
    python: str = PYTHON
    owner: int = -1
    sandbox: str = ""

    @property
    def grant(self) -> Path:
        return self.home / ".edge-training" / "grants" / "one.json"

    def write_grant(self, mode: int = 0o600, **changes: Any) -> dict[str, Any]:
        """Put a grant for the store's blobs there, as the pipeline does."""
        value = self.store.grant(**changes)
        self.grant.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.grant.write_text(json.dumps(value))
        self.grant.chmod(mode)
        return value

    def write_script(self, script: str, policy: Mapping[str, Any] | None = None) -> None:
        """Replace the project's script, and perhaps the site's policy."""
        (self.snapshot / "project" / "train.py").write_text(script)
        demanded = {"sandbox": self.sandbox} if self.sandbox else {}
        if demanded or policy is not None:
            (self.snapshot / "policy.json").write_text(json.dumps({**demanded, **(policy or {})}))

    def command(self, fingerprint: str, arguments: Sequence[str] = ()) -> list[str]:
        become = (
            [] if self.owner < 0 else ["setpriv", f"--reuid={self.owner}", f"--regid={self.owner}", "--clear-groups"]
        )
        return [
            *become,
            self.python,
            "edge_run/__main__.py",
            "--grant",
            str(self.grant),
            "--fingerprint",
            fingerprint,
            *arguments,
        ]

    def environment(self, **more: str) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", **more}

    def run(
        self,
        script: str,
        *arguments: str,
        policy: Mapping[str, Any] | None = None,
        grant: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Grant, run, and return what became of it."""
        self.write_script(script, policy)
        fingerprint = self.write_grant(**(grant or {}))["fingerprint"]
        return self.start(fingerprint, *arguments, environment=environment)

    def start(
        self,
        fingerprint: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> Outcome:
        """Run with the grant that is there."""
        self._give_away()
        done = subprocess.run(
            [*before, *self.command(fingerprint, arguments)],
            cwd=self.snapshot,
            env=self.environment(**(environment or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return self.outcome(done.returncode, done.stdout)

    def outcome(self, status: int, log: str) -> Outcome:
        outputs = self.snapshot / "outputs"
        record = json.loads((outputs / "edge_run.json").read_text()) if (outputs / "edge_run.json").exists() else {}
        return Outcome(status, log, record, sorted(path.name for path in outputs.iterdir()) if outputs.exists() else [])

    def _give_away(self) -> None:
        """Make everything the account's own."""
        if self.owner >= 0:
            for path in (self.home, self.snapshot, *self.home.rglob("*"), *self.snapshot.rglob("*")):
                os.chown(path, self.owner, self.owner)

    @property
    def remains(self) -> list[str]:
        """Return what of the data, scratch and grant is still on the VM."""
        base = self.home / ".edge-training"
        files = (path for path in base.rglob("*") if path.is_file() and path.name != "lock")
        return [
            name for name in map(str, (path.relative_to(base) for path in files)) if not name.startswith("records/")
        ]


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A private CA's certificate for 127.0.0.1."""
    return make_tls(tmp_path_factory.mktemp("tls"))


def make_tls(folder: Path) -> tuple[Path, Path, str]:
    """Make a private CA's certificate for 127.0.0.1: the server's certificate, its key, the CA as PEM."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge_run tests")])
    now = datetime.now(UTC)

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        start, end = now - timedelta(minutes=5), now + timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
        return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)

    ca = build(ca_name, ca_key.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    leaf = build(x509.Name([]), key.public_key()).add_extension(names, critical=True)
    ca_pem = ca.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    (folder / "server.pem").write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "server.pem", folder / "server.key", ca_pem


@pytest.fixture
def store(tls: tuple[Path, Path, str]) -> Iterator[BlobServer]:
    """A blob store with three small blobs."""
    with BlobServer(*tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        for month in (1, 2, 3):
            server.put(f"data/2026-0{month}.csv", b"a,b\n" + f"{month},{month * 1.5}\n".encode() * 100)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def site(store: BlobServer, tmp_path: Path) -> Site:
    """A VM's account with a snapshot whose script has still to be written."""
    return lay_out(store, tmp_path)


def lay_out(store: BlobServer, folder: Path, owner: int = -1) -> Site:
    """Make an account's home and a snapshot in a folder."""
    project = folder / "source"
    project.mkdir()
    (project / "train.py").write_text("raise SystemExit('the test writes its own script')\n")
    stage_source(project, SCRIPTS / "edge_run", folder / "snapshot")
    (folder / "home").mkdir(mode=0o700)
    return Site(store, folder / "home", folder / "snapshot", owner=owner)
