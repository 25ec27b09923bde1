from __future__ import annotations

import hashlib
import traceback
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import certifi
import pytest
import requests
from azure.storage.blob import ContentSettings, generate_container_sas

from edge_training.exceptions import ConfigurationError, DataVerificationError, ServiceError
from edge_training.hooks.stack_hub_blob import StackHubBlobHook

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

    from tests.airflow_harness import AirflowConnection

SOON = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StackHubBlobHook, "RETRIES", 0)


@pytest.fixture
def data(container: ContainerClient) -> ContainerClient:
    container.upload_blob("p/b.csv", b"x,y\n1,2\n")
    container.upload_blob("p/a.csv", b"x,y\n", metadata={"SHA256": hashlib.sha256(b"x,y\n").hexdigest()})
    container.upload_blob("other/c.csv", b"z")
    return container


def sas_of(container: ContainerClient, key: str, permission: str, expires: datetime) -> str:
    return generate_container_sas(
        "edgedata", container.container_name, account_key=key, permission=permission, expiry=expires
    )


def failure(hook: StackHubBlobHook, container: str) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        hook.list_blobs(container)
    return caught.value


def test_blobs_below_a_prefix_are_listed_by_name(hook: StackHubBlobHook, data: ContainerClient) -> None:
    found = hook.list_blobs(data.container_name, "p/")
    assert [(blob.name, blob.size) for blob in found] == [("p/a.csv", 4), ("p/b.csv", 8)]
    assert found[0].etag == data.get_blob_client("p/a.csv").get_blob_properties().etag
    assert found[0].last_modified.tzinfo is not None


def test_every_page_of_a_long_listing_is_read(
    hook: StackHubBlobHook, data: ContainerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.storage.blob import ContainerClient as Client

    listing = Client.list_blobs

    def short_pages(client: Any, *arguments: Any, **options: Any) -> Any:
        return listing(client, *arguments, results_per_page=1, **options)

    monkeypatch.setattr(Client, "list_blobs", short_pages)
    assert len(hook.list_blobs(data.container_name)) == 3


def test_the_stored_hash_is_taken_and_else_the_contents_are_hashed(
    hook: StackHubBlobHook, data: ContainerClient
) -> None:
    content = bytes(range(256)) * 40_000
    data.upload_blob("p/big.csv", content)  # bigger than one piece of 4 MiB
    data.get_blob_client("p/big.csv").set_http_headers(
        ContentSettings()
    )  # takes the Content-MD5 away, as a chunked upload has none
    hashes = {blob.name: hook.hash_of(data.container_name, blob) for blob in hook.list_blobs(data.container_name, "p/")}
    assert hashes == {
        "p/a.csv": "sha256:" + hashlib.sha256(b"x,y\n").hexdigest(),
        "p/b.csv": "md5:" + hashlib.md5(b"x,y\n1,2\n", usedforsecurity=False).hexdigest(),
        "p/big.csv": "sha256:" + hashlib.sha256(content).hexdigest(),
    }


def test_a_blob_is_read_whole_only_when_it_is_not_too_big(hook: StackHubBlobHook, data: ContainerClient) -> None:
    assert hook.read(data.container_name, "p/b.csv", 8) == b"x,y\n1,2\n"
    with pytest.raises(DataVerificationError, match=r"'p/b.csv' in container '.*' is bigger than the 7 bytes"):
        hook.read(data.container_name, "p/b.csv", 7)


def test_the_head_of_a_blob_is_read_even_when_it_is_empty(hook: StackHubBlobHook, data: ContainerClient) -> None:
    data.upload_blob("empty.csv", b"")
    assert hook.read_head(data.container_name, "p/b.csv", 3) == b"x,y"
    assert hook.read_head(data.container_name, "empty.csv", 3) == b""


def test_a_blob_that_changed_since_it_was_listed_is_not_read(hook: StackHubBlobHook, data: ContainerClient) -> None:
    blob = hook.list_blobs(data.container_name, "p/b")[0]
    data.upload_blob("p/b.csv", b"other", overwrite=True)
    with pytest.raises(ServiceError, match="changed while it was read") as caught:
        hook.read_head(data.container_name, blob.name, 3, blob.etag)
    assert (caught.value.status, caught.value.retryable) == (412, True)


def test_every_request_names_the_version_of_the_connection(
    hook: StackHubBlobHook, data: ContainerClient, sent: list[requests.PreparedRequest]
) -> None:
    blob = hook.list_blobs(data.container_name, "p/b")[0]
    hook.read_head(data.container_name, blob.name, 3, blob.etag)
    hook.read(data.container_name, blob.name, 100)
    assert [request.headers["x-ms-version"] for request in sent] == ["2019-07-07"] * 3


def test_a_signed_address_reads_one_blob_and_nothing_else(
    hook: StackHubBlobHook, data: ContainerClient, blob_fields: dict[str, Any]
) -> None:
    url = hook.sign_read_url(data.container_name, "p/b.csv", datetime.now(UTC) + SOON)
    ca = blob_fields["extra"]["ca_certificate"]
    assert "sv=2019-07-07" in url
    assert requests.get(url, verify=ca, timeout=10).content == b"x,y\n1,2\n"
    assert requests.get(url.replace("b.csv", "a.csv"), verify=ca, timeout=10).status_code == 403
    put = requests.put(url, data=b"z", headers={"x-ms-blob-type": "BlockBlob"}, verify=ca, timeout=10)
    assert put.status_code == 403


def test_a_signed_address_ends(hook: StackHubBlobHook, data: ContainerClient, blob_fields: dict[str, Any]) -> None:
    url = hook.sign_read_url(data.container_name, "p/b.csv", datetime.now(UTC) - timedelta(seconds=1))
    assert requests.get(url, verify=blob_fields["extra"]["ca_certificate"], timeout=10).status_code == 403


@pytest.mark.parametrize("way", ["account key", "SAS", "connection string with key", "connection string with SAS"])
def test_the_host_style_endpoint_works_with_every_credential(
    way: str,
    host_style: str,
    data: ContainerClient,
    blob_fields: dict[str, Any],
    airflow_connection: AirflowConnection,
) -> None:
    key = blob_fields["password"]
    sas = sas_of(data, key, "rl", datetime.now(UTC) + 2 * SOON)
    fields: dict[str, Any] = {
        "account key": {"host": host_style, "password": key},
        "SAS": {"host": host_style, "extra": {"sas_token": sas}},
        "connection string with key": {
            "extra": {"connection_string": f"AccountName=edgedata;AccountKey={key};BlobEndpoint={host_style}"}
        },
        "connection string with SAS": {
            "extra": {"connection_string": f"BlobEndpoint={host_style};SharedAccessSignature={sas}"}
        },
    }[way]
    fields["extra"] = {**blob_fields["extra"], **fields.get("extra", {})}
    airflow_connection("hub", conn_type="wasb", **fields)
    hook = StackHubBlobHook("hub")
    assert hook.account_url == host_style
    assert len(hook.list_blobs(data.container_name, "p/")) == 2
    url = hook.sign_read_url(data.container_name, "p/b.csv", datetime.now(UTC) + SOON)
    assert requests.get(url, verify=hook.ca_certificate, timeout=10).content == b"x,y\n1,2\n"


def test_a_missing_container_is_named(hook: StackHubBlobHook) -> None:
    error = failure(hook, "no-such-container")
    assert (error.status, error.code, error.retryable) == (404, "ContainerNotFound", False)
    assert "'no-such-container'" in str(error)


def test_a_missing_blob_is_named(hook: StackHubBlobHook, container: ContainerClient) -> None:
    with pytest.raises(ServiceError, match=r"blob 'schema.json' in container .* does not have it") as caught:
        hook.read(container.container_name, "schema.json", 10)
    assert caught.value.status == 404


def test_a_wrong_account_key_is_refused_once_and_not_shown(
    container: ContainerClient, blob_fields: dict[str, Any], airflow_connection: AirflowConnection
) -> None:
    wrong = "A" * 86 + "=="
    airflow_connection("stack_hub_blob", **blob_fields | {"password": wrong})
    error = failure(StackHubBlobHook(), container.container_name)
    assert (error.status, error.retryable) == (403, False)
    assert "check the account key" in str(error)
    assert wrong not in "".join(traceback.format_exception(error))


def test_an_expired_sas_is_told_as_expired_and_not_shown(
    container: ContainerClient, blob_fields: dict[str, Any], airflow_connection: AirflowConnection
) -> None:
    sas = sas_of(container, blob_fields["password"], "rl", datetime.now(UTC) - SOON)
    extra = {**blob_fields["extra"], "sas_token": sas}
    airflow_connection("stack_hub_blob", **blob_fields | {"password": "", "extra": extra})
    error = failure(StackHubBlobHook(), container.container_name)
    assert (error.status, error.retryable) == (403, False)
    assert "which expired at" in str(error)
    assert "sig=" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("authority", ["the system's", "another"])
def test_an_untrusted_authority_is_told_with_the_setting(
    authority: str, container: ContainerClient, blob_fields: dict[str, Any], airflow_connection: AirflowConnection
) -> None:
    extra = {} if authority == "the system's" else {"ca_certificate": certifi.where()}
    airflow_connection("stack_hub_blob", **blob_fields | {"extra": extra})
    error = failure(StackHubBlobHook(), container.container_name)
    assert "set the extra ca_certificate of connection 'stack_hub_blob'" in str(error)
    assert (error.status, error.retryable) == (None, False)


def test_a_version_that_the_store_refuses_is_told_with_the_setting(
    container: ContainerClient, blob_fields: dict[str, Any], airflow_connection: AirflowConnection
) -> None:
    extra = {**blob_fields["extra"], "api_version": "2026-10-06"}
    airflow_connection("stack_hub_blob", **blob_fields | {"extra": extra})
    error = failure(StackHubBlobHook(), container.container_name)
    assert "refuses API version 2026-10-06: set the extra api_version of connection 'stack_hub_blob'" in str(error)
    assert (error.status, error.retryable) == (400, False)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("https://127.0.0.1:1/edgedata", "nothing listens there"),
        ("https://edgedata.blob.hub.invalid", "unknown to DNS"),
    ],
)
def test_a_store_that_cannot_be_reached_is_worth_another_try(
    host: str, words: str, blob_fields: dict[str, Any], airflow_connection: AirflowConnection
) -> None:
    airflow_connection("stack_hub_blob", **blob_fields | {"host": host})
    error = failure(StackHubBlobHook(), "training-data")
    assert words in str(error)
    assert (error.status, error.retryable) == (None, True)


def test_what_listens_without_tls_is_told(
    local_site: Any, blob_fields: dict[str, Any], airflow_connection: AirflowConnection
) -> None:
    port = local_site.env["LOCAL_SITE_VM_PORT"]
    airflow_connection("stack_hub_blob", **blob_fields | {"host": f"https://127.0.0.1:{port}/edgedata"})
    assert "does not speak TLS" in str(failure(StackHubBlobHook(), "training-data"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"ca_certificate": "/nowhere/ca.pem"}, "'/nowhere/ca.pem', and there is no such file"),
        ({"api_version": "2017-11-09"}, "'2017-11-09', expected a date of 2019-02-02 or later"),
        ({"api_version": "newest"}, "'newest', expected a date"),
        ({"api_version": "2019-07-08"}, "cannot speak API version 2019-07-08"),
        ({"account_key": "x"}, "unknown extra 'account_key'"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_asked(
    extra: dict[str, str],
    message: str,
    blob_fields: dict[str, Any],
    airflow_connection: AirflowConnection,
    comms: object,
) -> None:
    airflow_connection("stack_hub_blob", **blob_fields | {"extra": extra})
    with pytest.raises(ConfigurationError, match=message):
        StackHubBlobHook().list_blobs("training-data")
