from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from edge_training import grants
from edge_training.exceptions import ComputeError, ConfigurationError
from edge_training.hooks.stack_hub_blob import StackHubBlobHook
from edge_training.operators.blob import VerifyBlobDataOperator
from edge_training.operators.grant import GrantDataAccessOperator, RevokeDataAccessOperator, list_grants
from edge_training.records import BlobManifest, DataGrant
from tests.integration.training.conftest import SCRIPTS

if TYPE_CHECKING:
    from edge_training.hooks.training_vm import TrainingVMHook
    from tests.airflow_harness import AirflowConnection, FakeComms, RunTask

# Runs on the VM, where nothing but the standard library is needed to use a grant.
FETCH = """
import json, ssl, sys, urllib.error, urllib.request
grant = json.load(open(sys.argv[1]))
context = ssl.create_default_context(cadata=grant["ca_pem"])
def ask(blob, method, data=None):
    headers = {"If-Match": blob["etag"], "x-ms-version": grant["api_version"], "x-ms-blob-type": "BlockBlob"}
    request = urllib.request.Request(blob["url"], data, headers, method=method)
    try:
        with urllib.request.urlopen(request, context=context) as answer:
            return [answer.status, len(answer.read())]
    except urllib.error.HTTPError as error:
        return [error.code, 0]
print(json.dumps({
    "read": [ask(blob, "GET") + [blob["size"]] for blob in grant["blobs"]],
    "write": ask(grant["blobs"][0], "PUT", b"x"),
    "delete": ask(grant["blobs"][0], "DELETE"),
}))
"""


@pytest.fixture(autouse=True)
def _no_grants_before(vm: TrainingVMHook) -> None:
    """Other tests use the same site, and may have left grants of runs that were cancelled."""
    for name in names(vm):
        vm.remove(grants.grant_path(vm.home(), name))


@pytest.fixture
def manifest(blob_connection: dict[str, Any], run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(StackHubBlobHook, "RETRIES", 0)
    task = VerifyBlobDataOperator(
        task_id="verify_blob_data",
        container="training-data",
        prefix="breast-cancer/",
        schema_blob="breast-cancer/schema.json",
    )
    found: dict[str, Any] = run_task(task).value
    return found


def grant_task(manifest: Any, lifetime: timedelta = timedelta(hours=1), **options: Any) -> GrantDataAccessOperator:
    return GrantDataAccessOperator(task_id="grant_data_access", manifest=manifest, lifetime=lifetime, **options)


def revoke_task(**options: Any) -> RevokeDataAccessOperator:
    return RevokeDataAccessOperator(task_id="revoke_data_access", scripts_folder=str(SCRIPTS), **options)


def names(vm: TrainingVMHook) -> list[str]:
    return [grant.name for grant in list_grants(vm)]


def test_a_grant_lets_the_vm_read_exactly_the_verified_blobs(
    manifest: dict[str, Any], vm: TrainingVMHook, run_task: RunTask
) -> None:
    grant = DataGrant.from_json(run_task(grant_task(manifest), run_id="reads").value)
    try:
        assert vm.run(f"stat -c '%a %U' {grant.path}").stdout.split() == ["600", vm.user]
        assert vm.run(f"stat -c %a $(dirname {grant.path})").stdout.strip() == "700"
        found = json.loads(vm.run(f"python3 - {grant.path}", stdin=FETCH.encode()).stdout)
    finally:
        vm.remove(grant.path)
    assert len(found["read"]) == len(manifest["blobs"])
    assert all(status == 200 and size == expected for status, size, expected in found["read"])
    assert (found["write"][0], found["delete"][0]) == (403, 403)
    assert grant.fingerprint == BlobManifest.from_json(manifest).fingerprint


def test_a_grant_carries_what_the_run_needs_and_nothing_else(
    manifest: dict[str, Any], vm: TrainingVMHook, run_task: RunTask
) -> None:
    grant = DataGrant.from_json(run_task(grant_task(manifest), run_id="content").value)
    content = json.loads(vm.run(f"cat {grant.path}").stdout)
    vm.remove(grant.path)
    assert set(content) == {"version", "fingerprint", "expires", "owner", "api_version", "ca_pem", "columns", "blobs"}
    assert (content["version"], content["api_version"], content["expires"]) == (1, "2019-07-07", grant.expires)
    assert {"name", "url", "size", "etag", "content_hash"} == set(content["blobs"][0])
    assert all("sv=2019-07-07" in blob["url"] and "sp=r&" in blob["url"] for blob in content["blobs"])


def test_no_permission_stands_in_xcom_or_log(
    manifest: dict[str, Any],
    vm: TrainingVMHook,
    run_task: RunTask,
    comms: FakeComms,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = run_task(grant_task(manifest), run_id="secrets")
    run_task(revoke_task(grant=outcome.value), run_id="secrets")
    log = capsys.readouterr().out
    assert outcome.value["path"] in log
    assert "sig=" not in log
    assert "sig=" not in json.dumps(list(comms.xcom.values()))


def test_a_retry_replaces_the_grant_and_another_dag_run_has_its_own(
    manifest: dict[str, Any], vm: TrainingVMHook, run_task: RunTask
) -> None:
    first = run_task(grant_task(manifest), run_id="one").value
    again = run_task(grant_task(manifest, timedelta(hours=2)), run_id="one", try_number=2).value
    other = run_task(grant_task(manifest), run_id="two").value
    assert first["path"] == again["path"] != other["path"]
    assert len(names(vm)) == 2
    run_task(revoke_task(grant=again), run_id="one")
    assert names(vm) == [grants.grant_name("unit", "two")]
    run_task(revoke_task(grant=other), run_id="two")
    assert names(vm) == []


def test_a_grant_is_taken_away_even_when_its_setup_returned_nothing(
    manifest: dict[str, Any], vm: TrainingVMHook, run_task: RunTask
) -> None:
    run_task(grant_task(manifest), run_id="lost")
    assert run_task(revoke_task(grant=None), run_id="lost").state == "success"
    assert names(vm) == []


def test_taking_away_what_is_not_there_is_fine(vm: TrainingVMHook, run_task: RunTask) -> None:
    assert run_task(revoke_task(), run_id="never granted").state == "success"


def test_expired_grants_and_remains_of_earlier_runs_are_removed(
    manifest: dict[str, Any], vm: TrainingVMHook, run_task: RunTask, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"{vm.home()}/{grants.GRANT_FOLDER}"
    ended = grants.grant_content(
        BlobManifest.from_json(manifest),
        lambda name: name,
        datetime.now(UTC) - timedelta(minutes=1),
        dag_run=("unit", "expired"),
        api_version="",
        ca_pem="",
    )
    expired, valid = grants.grant_name("unit", "expired"), grants.grant_name("unit", "still running")
    vm.put_file(ended, f"{folder}/{expired}")
    vm.run(f"touch -d '2 hours ago' {folder}/.x.json.123.tmp")
    run_task(revoke_task(), run_id="another one")
    run_task(grant_task(manifest), run_id="still running")
    assert f"Removed grant {expired}, which an earlier run had left: its permission ended at" in capsys.readouterr().out
    assert vm.run(f"ls -A {folder}").stdout.split() == [valid]
    run_task(revoke_task(), run_id="still running")


def test_whoever_grants_removes_the_grants_of_dag_runs_that_are_over_and_no_others(
    manifest: dict[str, Any],
    vm: TrainingVMHook,
    run_task: RunTask,
    comms: FakeComms,
    capsys: pytest.CaptureFixture[str],
) -> None:
    over = 'manual "over", 1'
    run_task(grant_task(manifest), run_id=over)
    run_task(grant_task(manifest), run_id="going on")
    assert len(names(vm)) == 2
    comms.dag_runs_over.add(over)
    run_task(grant_task(manifest), run_id="mine")
    name = grants.grant_name("unit", over)
    assert (
        f"Removed grant {name}, which an earlier run had left: its DAG run {over} is over." in capsys.readouterr().out
    )
    assert set(names(vm)) == {grants.grant_name("unit", "going on"), grants.grant_name("unit", "mine")}


def test_a_manifest_of_another_store_is_refused(
    manifest: dict[str, Any], vm: TrainingVMHook, run_task: RunTask
) -> None:
    outcome = run_task(grant_task(manifest | {"account_url": "https://other.blob.hub.site"}))
    assert isinstance(outcome.error, ConfigurationError)
    assert "verified at https://other.blob.hub.site but connection 'stack_hub_blob' is for" in str(outcome.error)


def test_without_a_manifest_the_task_says_what_to_clear(vm: TrainingVMHook, run_task: RunTask) -> None:
    outcome = run_task(grant_task(None))
    assert isinstance(outcome.error, ConfigurationError)
    assert "Expected a BlobManifest" in str(outcome.error)


def test_a_sas_that_may_write_is_not_handed_to_the_vm(
    manifest: dict[str, Any],
    vm: TrainingVMHook,
    run_task: RunTask,
    blob_connection: dict[str, Any],
    airflow_connection: AirflowConnection,
) -> None:
    sas = "sv=2019-07-07&sr=c&sp=racwdl&se=2999-01-01T00%3A00%3A00Z&sig=abcdef"
    extra = {**blob_connection["extra"], "sas_token": sas}
    airflow_connection("stack_hub_blob", **blob_connection | {"password": "", "extra": extra})
    outcome = run_task(grant_task(manifest))
    assert isinstance(outcome.error, ConfigurationError)
    assert "abcdef" not in str(outcome.error)
    assert names(vm) == []


def test_a_vm_that_is_down_is_told(
    manifest: dict[str, Any], vm_fields: dict[str, Any], airflow_connection: AirflowConnection, run_task: RunTask
) -> None:
    airflow_connection("training_vm", **vm_fields | {"port": 1})
    for task in (grant_task(manifest), revoke_task()):
        outcome = run_task(task)
        assert isinstance(outcome.error, ComputeError)
        assert outcome.state == "up_for_retry"
