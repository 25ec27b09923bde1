from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ConfigurationError, DataVerificationError, ServiceError
from edge_training.hooks.stack_hub_blob import StackHubBlobHook
from edge_training.operators.blob import VerifyBlobDataOperator
from edge_training.records import BlobManifest

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

    from tests.airflow_harness import RunTask

SCHEMA = {
    "fields": [{"name": "radius", "type": "number"}, {"name": "diagnosis", "type": "integer"}],
    "missingValues": [""],
}


@pytest.fixture
def site(container: ContainerClient) -> ContainerClient:
    container.upload_blob("scans/schema.json", json.dumps(SCHEMA))
    container.upload_blob("scans/2026-09.csv", b"radius,diagnosis\n17.99,0\n")
    container.upload_blob("scans/2026-10.csv", b'\xef\xbb\xbf"radius","diagnosis"\r\n20.57,1\r\n')
    container.upload_blob("elsewhere/2026-10.csv", b"not,ours\n")
    return container


def operator(site: ContainerClient, **options: Any) -> VerifyBlobDataOperator:
    names = {"container": site.container_name, "prefix": "scans/", "schema_blob": "scans/schema.json"}
    return VerifyBlobDataOperator(task_id="verify_blob_data", **names | options)


def problem(run_task: RunTask, task: VerifyBlobDataOperator) -> str:
    outcome = run_task(task)
    assert isinstance(outcome.error, DataVerificationError), outcome.error
    assert outcome.value is None
    return str(outcome.error)


def test_good_blobs_make_a_manifest_that_pins_them(
    site: ContainerClient, run_task: RunTask, hook: StackHubBlobHook
) -> None:
    task = operator(site, minimum_blobs=2, minimum_bytes=40, maximum_bytes=100, maximum_age=timedelta(hours=1))
    manifest = BlobManifest.from_json(run_task(task).value)
    assert [blob.name for blob in manifest.blobs] == ["scans/2026-09.csv", "scans/2026-10.csv"]
    assert manifest.columns == ("radius", "diagnosis")
    assert manifest.account_url == hook.account_url
    for blob in manifest.blobs:
        properties = site.get_blob_client(blob.name).get_blob_properties()
        assert (blob.etag, blob.size) == (properties.etag, properties.size)
        assert blob.content_hash.startswith("md5:")


def test_the_same_data_uploaded_again_has_the_same_fingerprint(site: ContainerClient, run_task: RunTask) -> None:
    first = BlobManifest.from_json(run_task(operator(site)).value)
    site.upload_blob("scans/2026-09.csv", b"radius,diagnosis\n17.99,0\n", overwrite=True)
    again = BlobManifest.from_json(run_task(operator(site)).value)
    site.upload_blob("scans/2026-09.csv", b"radius,diagnosis\n17.98,0\n", overwrite=True)
    changed = BlobManifest.from_json(run_task(operator(site)).value)
    assert first.fingerprint == again.fingerprint != changed.fingerprint
    assert first.blobs[0].etag != again.blobs[0].etag


def test_names_are_templates(site: ContainerClient, run_task: RunTask) -> None:
    task = operator(site, prefix="{{ dag_run.conf['prefix'] }}", schema_blob="{{ dag_run.conf['prefix'] }}schema.json")
    assert run_task(task, conf={"prefix": "scans/"}).state == "success"


def test_the_log_shows_the_blobs_and_the_fingerprint_but_no_data_and_no_secret(
    site: ContainerClient, run_task: RunTask, capsys: pytest.CaptureFixture[str], blob_fields: dict[str, Any]
) -> None:
    outcome = run_task(operator(site))
    log = capsys.readouterr().out
    assert "scans/2026-10.csv" in log
    assert BlobManifest.from_json(outcome.value).fingerprint in log
    for hidden in ("17.99", "20.57", blob_fields["password"]):
        assert hidden not in log
        assert hidden not in json.dumps(outcome.value)


def test_no_blobs_are_a_problem_that_names_where_they_were_sought(site: ContainerClient, run_task: RunTask) -> None:
    text = problem(run_task, operator(site, prefix="scams/"))
    assert f"'scams/*.csv' in container '{site.container_name}'" in text
    assert "found 0 training blobs, expected at least 1" in text


def test_a_blob_that_is_too_old_is_named(site: ContainerClient, run_task: RunTask) -> None:
    text = problem(run_task, operator(site, maximum_age=timedelta(seconds=-1)))
    assert "the newest blob 'scans/2026-" in text
    assert "has the data stopped arriving?" in text


def test_all_problems_are_told_in_one_try(site: ContainerClient, run_task: RunTask) -> None:
    site.upload_blob("scans/2026-07.csv", b"")
    site.upload_blob("scans/2026-08.csv", b"radius,diagnosys\n1.5,0\n")
    site.upload_blob("scans/2026-11.csv", b"14.2,1\n15.1,0\n")
    text = problem(run_task, operator(site, minimum_blobs=12, minimum_bytes=1 << 20))
    for part in (
        "found 5 training blobs, expected at least 12",
        "expected at least 1.0 MiB",
        "blob 'scans/2026-07.csv' is empty",
        "blob 'scans/2026-08.csv': column 2 is 'diagnosys', expected 'diagnosis'",
        "blob 'scans/2026-11.csv': its first line has 2 fields",
    ):
        assert part in text
    assert "14.2" not in text


def test_a_header_that_is_longer_than_64_kib_is_a_problem(site: ContainerClient, run_task: RunTask) -> None:
    site.upload_blob("scans/2026-11.csv", b"x" * (1 << 17))
    assert "blob 'scans/2026-11.csv': its header does not end within the first 65536 bytes" in problem(
        run_task, operator(site)
    )


def test_a_bad_schema_is_named(site: ContainerClient, run_task: RunTask) -> None:
    site.upload_blob("scans/schema.json", b"", overwrite=True)
    assert "Schema blob 'scans/schema.json' is not valid JSON" in problem(run_task, operator(site))


@pytest.mark.parametrize("option", ["container", "schema_blob"])
def test_what_is_missing_in_the_store_is_named(option: str, site: ContainerClient, run_task: RunTask) -> None:
    outcome = run_task(operator(site, **{option: "no-such-thing"}))
    assert isinstance(outcome.error, ServiceError)
    assert outcome.error.status == 404
    assert "'no-such-thing'" in str(outcome.error)


def test_a_blob_that_changes_while_it_is_verified_makes_the_try_fail(
    site: ContainerClient, run_task: RunTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = StackHubBlobHook.list_blobs

    def then_upload(hook: StackHubBlobHook, container: str, prefix: str = "") -> Any:
        found = listing(hook, container, prefix)
        site.upload_blob("scans/2026-10.csv", b"radius,diagnosis\n1,1\n", overwrite=True)
        return found

    monkeypatch.setattr(StackHubBlobHook, "list_blobs", then_upload)
    outcome = run_task(operator(site))
    assert outcome.state == "up_for_retry"
    assert isinstance(outcome.error, ServiceError)
    assert "blob 'scans/2026-10.csv'" in str(outcome.error)


def test_a_connection_that_is_not_there_is_told_with_how_to_add_it(site: ContainerClient, run_task: RunTask) -> None:
    outcome = run_task(operator(site, blob_conn_id="another_hub"))
    assert isinstance(outcome.error, ConfigurationError)
    assert "AIRFLOW_CONN_ANOTHER_HUB" in str(outcome.error)


def test_the_sites_own_data_is_as_its_schema_says(hook: StackHubBlobHook, run_task: RunTask) -> None:
    task = VerifyBlobDataOperator(
        task_id="verify_blob_data",
        container="training-data",
        prefix="breast-cancer/",
        schema_blob="breast-cancer/schema.json",
        minimum_blobs=12,
    )
    manifest = BlobManifest.from_json(run_task(task).value)
    assert len(manifest.columns) == 31
    assert manifest.columns[-1] == "diagnosis"
