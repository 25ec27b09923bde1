"""What the private CA of a local site promises."""

from __future__ import annotations

import datetime as dt
import ssl
import stat
from pathlib import Path

import certifi
import pytest
from cryptography import x509

from local_site import certificates


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_server_certificate_is_for_every_name_the_site_is_reached_by(tmp_path: Path) -> None:
    assert certificates.ensure(tmp_path)
    names = _certificate(tmp_path / "server.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "edgedata.blob.local.azurestack.external", "*.blob.localhost"} <= set(
        names.get_values_for_type(x509.DNSName)
    )
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_a_strict_client_accepts_the_chain(tmp_path: Path) -> None:
    certificates.ensure(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    client = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(to_client, to_server, server_hostname="edgedata.blob.local.azurestack.external")
    right = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (left, right, left, right):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert left.getpeercert()


def test_a_second_call_changes_nothing(tmp_path: Path) -> None:
    certificates.ensure(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert not certificates.ensure(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_list_of_names_gives_a_new_certificate_of_the_same_ca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.ensure(tmp_path)
    ca = (tmp_path / "ca.pem").read_bytes()
    monkeypatch.setattr(certificates, "DNS_NAMES", ("localhost", "new.example"))
    assert certificates.ensure(tmp_path)
    assert (tmp_path / "ca.pem").read_bytes() == ca
    assert not certificates.ensure(tmp_path)


def test_a_certificate_that_ends_soon_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_SERVER_LIFE", dt.timedelta(days=29))
    certificates.ensure(tmp_path)
    monkeypatch.undo()
    assert certificates.ensure(tmp_path)
    assert not certificates.ensure(tmp_path)


def test_a_new_ca_takes_the_server_certificate_with_it(tmp_path: Path) -> None:
    certificates.ensure(tmp_path)
    (tmp_path / "ca.key").unlink()
    assert certificates.ensure(tmp_path)
    server = _certificate(tmp_path / "server.pem")
    server.verify_directly_issued_by(_certificate(tmp_path / "ca.pem"))
    assert (tmp_path / "ca.pem").read_text() in (tmp_path / "trust.pem").read_text()


def test_only_the_owner_can_read_the_keys(tmp_path: Path) -> None:
    certificates.ensure(tmp_path)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.glob("*.key"))


def test_the_trust_bundle_keeps_the_public_authorities(tmp_path: Path) -> None:
    certificates.ensure(tmp_path)
    trust = (tmp_path / "trust.pem").read_text()
    assert trust.startswith(Path(certifi.where()).read_text().rstrip("\n"))
    assert trust.endswith((tmp_path / "ca.pem").read_text())


def test_the_trust_bundle_keeps_a_bundle_that_was_set_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    company = tmp_path / "company.pem"
    company.write_text("# the company's own authorities\n")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(company))
    certificates.ensure(tmp_path / "tls")
    assert (tmp_path / "tls/trust.pem").read_text().startswith("# the company's own authorities\n")


def test_the_trust_bundle_does_not_grow_when_it_is_itself_the_one_that_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.ensure(tmp_path)
    before = (tmp_path / "trust.pem").read_text()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "trust.pem"))
    certificates.ensure(tmp_path)
    assert (tmp_path / "trust.pem").read_text() == before
