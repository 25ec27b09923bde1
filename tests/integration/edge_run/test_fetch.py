"""What is trained on is what was verified: the runner against a blob store that misbehaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.edge_run.conftest import Outcome, Site

SAVE = "import edge_context\nedge_context.save_model(b'\\x08\\x08:\\x00B\\x02\\x10\\x11', 'model.onnx')\n"
NAME = "data/2026-02.csv"


def _assert_failed(site: Site, outcome: Outcome, *complaints: str) -> None:
    assert outcome.status == 1
    assert outcome.record["error_code"] == "Data"
    for complaint in complaints:
        assert complaint in outcome.log
    assert "sig=" not in outcome.log
    assert outcome.outputs == ["edge_run.json"]
    assert site.remains == []


def test_every_request_is_pinned_to_version_and_etag(site: Site) -> None:
    assert site.run(SAVE).status == 0
    assert sorted(name for name, _ in site.store.requests) == sorted(site.store.blobs)
    for name, headers in site.store.requests:
        assert headers["x-ms-version"] == "2019-07-07"
        assert headers["If-Match"] == site.store.etags[name]


def test_a_blob_that_changed_since_it_was_verified_is_named(site: Site) -> None:
    site.write_script(SAVE)
    fingerprint = site.write_grant()["fingerprint"]
    site.store.put(NAME, b"a,b\n9,9\n")
    _assert_failed(
        site, site.start(fingerprint), f"Blob {NAME} cannot be fetched: it was changed after it was verified"
    )


def test_a_blob_that_was_deleted_is_named(site: Site) -> None:
    site.write_script(SAVE)
    fingerprint = site.write_grant()["fingerprint"]
    del site.store.blobs[NAME]
    _assert_failed(
        site, site.start(fingerprint), f"Blob {NAME} cannot be fetched: it was deleted after it was verified"
    )


@pytest.mark.parametrize("content", [b"x" * 1000, b"short", b"x" * 5000])
def test_other_bytes_under_the_same_etag_are_found_out(site: Site, content: bytes) -> None:
    site.write_script(SAVE)
    fingerprint = site.write_grant()["fingerprint"]
    site.store.blobs[NAME] = content
    _assert_failed(site, site.start(fingerprint), f"Blob {NAME} is not what was verified")


def test_a_passing_fault_of_the_store_is_ridden_out(site: Site) -> None:
    site.store.faults[NAME] = [503, 500]
    assert site.run(SAVE).status == 0
    assert [name for name, _ in site.store.requests].count(NAME) == 3


def test_a_lasting_fault_of_the_store_ends_the_run(site: Site) -> None:
    site.store.faults[NAME] = [503] * 10
    _assert_failed(
        site, site.run(SAVE), f"Blob {NAME} cannot be fetched after 4 tries: the store answers 503 (Planned)"
    )


def test_a_connection_that_breaks_in_the_middle_ends_the_run(site: Site) -> None:
    site.store.cut[NAME] = 10
    _assert_failed(site, site.run(SAVE), f"Blob {NAME} cannot be fetched after 4 tries: the connection")


def test_a_grant_that_the_store_refuses_says_what_to_do(site: Site) -> None:
    blobs = [{**blob, "url": blob["url"].replace("sig=", "gis=")} for blob in site.store.grant()["blobs"]]
    _assert_failed(site, site.run(SAVE, grant={"blobs": blobs}), "the store refuses the grant", "(status 403, Authent")


def test_an_answer_that_sends_elsewhere_is_not_followed(site: Site) -> None:
    site.store.faults[NAME] = [302]
    _assert_failed(site, site.run(SAVE), "an answer that a blob store does not give", "(status 302, Planned)")


def test_an_untrusted_certificate_names_the_setting(site: Site) -> None:
    _assert_failed(site, site.run(SAVE, grant={"ca_pem": ""}), "certificate is not trusted", "ca_certificate")


def test_a_private_ca_that_is_none_names_the_connection(site: Site) -> None:
    _assert_failed(site, site.run(SAVE, grant={"ca_pem": "-----BEGIN NOTHING-----"}), "is not a PEM certificate")


def test_a_store_that_is_down_says_where_it_was_looked_for(site: Site) -> None:
    blobs = [{**blob, "url": "https://127.0.0.1:9/container/x?sig=c2VjcmV0"} for blob in site.store.grant()["blobs"]]
    _assert_failed(site, site.run(SAVE, grant={"blobs": blobs}), "the connection to 127.0.0.1:9 failed")


def test_no_proxy_is_asked(site: Site) -> None:
    site.write_script(SAVE)
    fingerprint = site.write_grant()["fingerprint"]
    nobody = "http://127.0.0.1:9"
    assert site.start(fingerprint, environment={"HTTPS_PROXY": nobody, "https_proxy": nobody}).status == 0
