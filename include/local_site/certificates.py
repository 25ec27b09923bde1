"""The private CA of the site, the certificate of its servers, and what a client has to trust."""

from __future__ import annotations

import datetime as dt
import os
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from local_site import files

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DNS_NAMES = (
    "localhost",
    "*.blob.localhost",
    "edgedata.blob.local.azurestack.external",
    "*.blob.local.azurestack.external",
)
IP_ADDRESSES = ("127.0.0.1",)

_MARK = "# The private CA of a local site\n"
_CA_LIFE = dt.timedelta(days=3650)
_SERVER_LIFE = dt.timedelta(days=397)
_RENEW_BEFORE = dt.timedelta(days=30)


def ensure(folder: Path) -> bool:
    """Make the CA, the server certificate and the trust bundle, as far as they are missing or out of date.

    :param folder: Where `ca.pem`, `server.pem`, `server.key` and `trust.pem` are kept.
    :return: True when the servers have to be started anew to show another certificate.
    """
    changed = False
    if not _current(folder / "ca.pem", folder / "ca.key", None):
        _make_ca(folder)
    if not _current(folder / "server.pem", folder / "server.key", folder / "ca.pem"):
        _make_server(folder)
        changed = True
    _make_trust(folder)
    return changed


def _current(certificate: Path, key: Path, issuer: Path | None) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    if not certificate.exists() or not key.exists():
        return False
    held = x509.load_pem_x509_certificate(certificate.read_bytes())
    if held.not_valid_after_utc - _RENEW_BEFORE < dt.datetime.now(dt.UTC):
        return False
    if issuer is None:
        return True
    try:
        held.verify_directly_issued_by(x509.load_pem_x509_certificate(issuer.read_bytes()))
    except (InvalidSignature, ValueError):
        return False
    return held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == _names()


def _names() -> x509.SubjectAlternativeName:
    from cryptography import x509

    names: list[x509.GeneralName] = [x509.DNSName(name) for name in DNS_NAMES]
    names += [x509.IPAddress(ip_address(address)) for address in IP_ADDRESSES]
    return x509.SubjectAlternativeName(names)


def _make_ca(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Local site, private CA")
    builder = _builder(name, name, key, _CA_LIFE).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), True)
    _save(folder, "ca", builder.sign(key, hashes.SHA256()), key)


def _make_server(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{folder / 'ca.key'} is not a key that this program made.")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name("Local site"), ca.subject, key, _SERVER_LIFE)
    builder = builder.add_extension(_names(), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH]), False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
    _save(folder, "server", builder.sign(ca_key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, life: dt.timedelta
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    # An hour back, for clients whose clock is a little behind.
    builder = builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + life)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.OID_COMMON_NAME, text)])


def _save(folder: Path, name: str, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = serialization.Encoding.PEM
    key_bytes = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    # The certificate goes last: where it exists, its key exists too.
    files.write(folder / f"{name}.key", key_bytes, files.PRIVATE)
    files.write(folder / f"{name}.pem", certificate.public_bytes(pem))


def _make_trust(folder: Path) -> None:
    import certifi

    public = Path(os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where())
    if not public.is_file():
        public = Path(certifi.where())
    # What is set may be the bundle of a local site itself; only what that was made from is taken over.
    text = public.read_text().partition(_MARK)[0].rstrip("\n")
    bundle = f"{text}\n{_MARK}{(folder / 'ca.pem').read_text()}"
    trust = folder / "trust.pem"
    if not trust.exists() or trust.read_text() != bundle:
        files.write(trust, bundle)
