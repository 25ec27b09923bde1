"""A registry of the tests' own, base images of a few bytes, and a small ONNX model."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import ipaddress
import json
import os
import signal
import struct
import subprocess
import tarfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bcrypt
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_training.images.media_types import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    canonical_json,
    digest_of,
)
from edge_training.images.registry import RegistryClient
from edge_training.images.transport import Patience
from tests.running_site import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

USER, PASSWORD = "pusher", "correct horse battery staple"
# Short waits: what a test provokes does not get better by waiting longer.
HASTE = Patience(tries=3, first_wait=0.01, longest_wait=0.05, connect=5, read=20)


@dataclass(frozen=True)
class Registry:
    """A running registry.

    :param address: ``host:port``.
    :param ca: PEM file of its CA.
    :param data: the folder where it keeps its blobs.
    """

    address: str
    ca: Path
    data: Path

    def client(
        self, *, user: str = USER, password: str = PASSWORD, patience: Patience = HASTE, **options: Any
    ) -> RegistryClient:
        """Return a client; close it."""
        return RegistryClient(
            self.address,
            user=user,
            password=password,
            ca_certificate=self.ca,
            origin="connection 'test'",
            patience=patience,
            **options,
        )


def blob(size: int = 200_000) -> tuple[bytes, Descriptor]:
    """Return random bytes, and what a manifest says of them."""
    data = os.urandom(size)
    return data, Descriptor.of_bytes("", data)


def free_port() -> int:
    return free_ports(1)[0]


def write_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Write a CA and a certificate of 127.0.0.1; return the files of CA, certificate and key."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # A name of its own, for several of these CAs may be trusted at once.
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"test CA {x509.random_serial_number()}"[:60])])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    ca = builder(ca_name, ca_key.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server = builder(name, key.public_key()).add_extension(alternatives, critical=False)
    files = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    files[0].write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(server.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files[2].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@contextlib.contextmanager
def run_registry(folder: Path, auth: Mapping[str, Any] | None = None) -> Iterator[Registry]:
    """Run Debian's registry with TLS and a password until the block ends.

    :param folder: for its settings and data; the data of an earlier run in it are there again.
    :param auth: how it authenticates, instead of with one user's password.
    """
    port = free_port()
    ca, certificate, key = write_certificates(folder)
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(rounds=4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    settings = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "s", "tls": {"certificate": str(certificate), "key": str(key)}},
        "auth": auth or {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.yml").write_text(json.dumps(settings))
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log, env=environment
        )
    try:
        _wait(f"https://127.0.0.1:{port}/v2/", ca, process)
        yield Registry(f"127.0.0.1:{port}", ca, folder / "data")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _wait(url: str, ca: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    with requests.Session() as session:
        session.trust_env, session.verify = False, str(ca)
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(requests.ConnectionError):
                session.get(url, timeout=2)
                return
            time.sleep(0.02)
    raise AssertionError("the registry did not start")


def tar_gzip(files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """Return a layer as bytes, and its diff id."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0), digest_of(plain.getvalue())


def push_base(
    client: RegistryClient,
    name: str,
    files: Mapping[str, bytes],
    *,
    docker: bool = False,
    architecture: str = "amd64",
    variables: tuple[str, ...] = ("PATH=/usr/bin:/bin", "LANG=C.UTF-8"),
) -> str:
    """Push an image of one layer and return its digest.

    :param name: ``repository:tag``.
    :param docker: whether it uses Docker's media types instead of OCI's.
    """
    layer, diff_id = tar_gzip(files)
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": list(variables), "Cmd": ["python3"], "Labels": {"of": "base"}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": "test"}],
        "docker_version": "20",
    }
    types = (
        (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER_GZIP) if docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP)
    )
    repository, _, tag = name.partition(":")
    return push_raw(client, repository, tag, types, canonical_json(config), layer)


def push_raw(
    client: RegistryClient, repository: str, tag: str, types: tuple[str, str, str], config: bytes, layer: bytes
) -> str:
    """Push blobs and their manifest and return its digest."""
    for data in (config, layer):
        client.put_blob(repository, Descriptor.of_bytes("", data), lambda data=data: io.BytesIO(data))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    manifest = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": types[0],
            "config": Descriptor.of_bytes(types[1], config).to_json(),
            "layers": [Descriptor.of_bytes(types[2], layer).to_json()],
        }
    )
    client.put_manifest(repository, tag, manifest, types[0])
    return digest_of(manifest)


def push_index(client: RegistryClient, name: str, images: Mapping[str, str], *, docker: bool = False) -> str:
    """Push an index of images that are there, platform → digest, and return its digest."""
    repository, _, tag = name.partition(":")
    entries: list[dict[str, Any]] = []
    for platform, digest in images.items():
        manifest = client.find_manifest(repository, digest)
        assert manifest is not None
        system, _, architecture = platform.partition("/")
        described = Descriptor(manifest.media_type, digest, len(manifest.body)).to_json()
        entries.append({**described, "platform": {"os": system, "architecture": architecture}})
    media_type = DOCKER_INDEX if docker else OCI_INDEX
    body = canonical_json({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
    client.put_manifest(repository, tag, body, media_type)
    return digest_of(body)


def blob_files(registry: Registry, digest: str) -> list[Path]:
    """Return where the registry keeps a blob."""
    return sorted(registry.data.glob(f"**/blobs/sha256/*/{digest.removeprefix('sha256:')}/data"))


def sha256_of(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def linear_onnx(columns: list[str], weights: list[float], intercept: float) -> bytes:
    """Return an ONNX file of a logistic regression with two classes, written by hand field by field (onnx.proto).

    Input ``features`` float [None, n]; outputs ``label`` int64 and ``probabilities`` float [None, 2].
    """
    classifier = (
        _text(1, "features")
        + _text(2, "label")
        + _text(2, "probabilities")
        + _text(4, "LinearClassifier")
        + _text(7, "ai.onnx.ml")
        + _attribute("coefficients", 6, _packed([-w for w in weights] + weights, 7))
        + _attribute("intercepts", 6, _packed([-intercept, intercept], 7))
        + _attribute("classlabels_ints", 7, _number(8, 0) + _number(8, 1))
        + _attribute("post_transform", 3, _text(4, "SOFTMAX"))
    )
    graph = (
        _bytes(1, classifier)
        + _text(2, "tiny")
        + _bytes(11, _value("features", 1, len(columns)))
        + _bytes(12, _value("label", 7, None))
        + _bytes(12, _value("probabilities", 1, 2))
    )
    model = _number(1, 8) + _bytes(7, graph)
    for domain, version in (("", 17), ("ai.onnx.ml", 3)):
        model += _bytes(8, _text(1, domain) + _number(2, version))
    return model + _bytes(14, _text(1, "columns") + _text(2, json.dumps(columns)))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _packed(values: list[float], field: int) -> bytes:
    return _bytes(field, struct.pack(f"<{len(values)}f", *values))


def _attribute(name: str, kind: int, value: bytes) -> bytes:
    return _bytes(5, _text(1, name) + value + _number(20, kind))


def _value(name: str, element: int, width: int | None) -> bytes:
    """Return a ValueInfoProto of a tensor [None] or [None, width]."""
    dimensions = _bytes(1, _text(2, "N")) + (_bytes(1, _number(1, width)) if width else b"")
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, element) + _bytes(2, dimensions)))
