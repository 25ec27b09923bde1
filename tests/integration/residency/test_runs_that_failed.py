"""What a run that failed, was cancelled or was killed has left in Azure ML is audited too, and of its data nothing stays on the VM."""

from __future__ import annotations

import json
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from edge_training import grants
from edge_training.exceptions import ResidencyError, RunFailedError
from edge_training.hooks.azure_ml_evidence import AzureMLEvidenceHook
from edge_training.hooks.receipt_store import ReceiptStore
from edge_training.hooks.residency_key import ResidencyKeyHook
from edge_training.operators.grant import RevokeDataAccessOperator
from edge_training.operators.late_audit import AuditLeftRunsOperator
from edge_training.records import BlobManifest, CodeManifest, ResidencyReceipt
from edge_training.residency.receipt import public_key_text
from edge_training.residency.verify import verify
from edge_training.retries import TypedRetryPolicy
from tests.integration.residency.conftest import GOOD, Audited
from tests.integration.training.conftest import SCRIPTS, Pipeline
from tests.integration.training.test_runs import remove_tags, wait_for_end

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_training.records import JsonObject
    from tests.airflow_harness import FakeComms

SPEAKS = "import edge_context\nprint('hello')\nedge_context.log_metric('loss', 0.5)\n"
FAILS = SPEAKS + "raise SystemExit(3)\n"
GOES_ON = SPEAKS + "import time\ntime.sleep(300)\n"


def bodies(container: str) -> list[dict[str, Any]]:
    """Return what the receipts say, after checking them."""
    store = ReceiptStore(container)
    verdict = verify(
        [(one.name, store.receipt(one.name)) for one in store.receipts("test")],
        public_key_text(ResidencyKeyHook().key()),
    )
    assert verdict.faults == ()
    return [receipt.body for receipt in verdict.receipts]


@pytest.fixture
def started(residency: dict[str, Any], pipeline: Pipeline, project: Callable[[str], Path]) -> Callable[..., Audited]:
    """Submit a script as a run; its audit is that of a DAG run whose waiting task has failed."""

    def start(script: str, **options: Any) -> Audited:
        container = f"receipts-{uuid.uuid4().hex[:12]}"
        submission = pipeline.submission(
            "sample", project(script), experiment="failing", receipts_container=container, **options
        )
        run: JsonObject = pipeline.value(submission)
        audited = Audited(pipeline, run, container)
        audited.fields = {"result": None, "experiment": "failing", "settle": timedelta(seconds=20)}
        return audited

    return start


def read_log(run_id: str) -> str:
    return AzureMLEvidenceHook().read_log(run_id, 0).decode()


def wait_for_line(run_id: str, text: str) -> None:
    for _ in range(600):
        if text in read_log(run_id):
            return
        time.sleep(0.1)
    raise AssertionError(f"{run_id} never printed {text!r}")


def test_a_run_that_failed_gets_one_receipt_and_what_somebody_adds_to_it_is_found(
    started: Callable[..., Audited], tmp_path: Path
) -> None:
    failed = started(FAILS)
    assert isinstance(failed.pipeline.poll(failed.result).error, RunFailedError)
    outcome = failed.audit()
    assert (outcome.state, outcome.error, outcome.value) == ("success", None, None)
    (body,) = bodies(failed.container)
    assert (body["run"]["id"], body["run"]["state"], body["audit"]["result"]) == (failed.run_id, "Failed", "clean")
    assert body["run"]["error"]["code"] == "Script"
    assert len(body["run"]["error"]["message_sha256"]) == 64
    assert {item["kind"] for item in body["items"]} == {"metric", "log"}
    assert body["wiped"]["grant"] is True
    assert body["bytes_out"]["log"] > 0
    assert failed.audit().error is None
    assert len(bodies(failed.container)) == 1

    rows = tmp_path / "rows.csv"
    rows.write_text("17.99,10.38,122.8\n" * 20)
    from azureml.core import Run

    run = Run.get(AzureMLEvidenceHook().workspace, failed.run_id)
    run.upload_file("outputs/rows.csv", str(rows))
    run.log("row", 10.38)
    run.flush()
    # The run has its receipt, so only an audit that knows of none looks again.
    anew = f"{failed.container}-anew"
    outcome = failed.audit(container=anew)
    assert isinstance(outcome.error, ResidencyError)
    assert outcome.state == "failed"
    (body,) = bodies(anew)
    assert body["audit"]["result"] == "differences"
    found = {(row["where"], row["what"]) for row in body["audit"]["differences"]}
    assert {("artifact", "outputs/rows.csv"), ("metric", "row")} <= found


def test_a_killed_run_is_wiped_at_the_teardown_and_its_lack_of_a_record_does_not_stop_the_model_of_the_retry(
    started: Callable[..., Audited], local_site: Any, capsys: pytest.CaptureFixture[str], model_bytes: bytes
) -> None:
    killed = started(f"MODEL = {model_bytes!r}\nprint('hello')\nimport time\ntime.sleep(5)\n{GOOD}")
    pipeline = killed.pipeline
    wait_for_line(killed.run_id, "train.py starts")
    teardown = RevokeDataAccessOperator(task_id="revoke_data_access", scripts_folder=str(SCRIPTS))
    # That of another DAG run leaves what lives alone.
    assert pipeline.run_task(teardown, run_id="another").state == "success"
    name = grants.grant_name("unit", pipeline.run_id)
    runner = f"^[^ ]*python[^ ]* edge_run/__main__.py --grant [^ ]*{name}"
    command = f"ls ~/.edge-training/work/run-*/data/breast-cancer && pkill -9 -f '{runner}'"
    result = local_site.ssh(command)
    assert (result.returncode, result.stdout.count(".csv")) == (0, 12)
    assert wait_for_end(killed.run_id) == "Failed"
    assert isinstance(pipeline.poll(killed.result).error, RunFailedError)
    assert pipeline.run(teardown).state == "success"
    assert "which runs that were killed had left on" in capsys.readouterr().out
    assert local_site.ssh(f"ls -d ~/.edge-training/work/run-* ~/.edge-training/grants/{name}").stdout == ""

    outcome = killed.audit()
    assert (outcome.state, outcome.error) == ("success", None)
    (body,) = bodies(killed.container)
    assert (body["run"]["state"], body["audit"]["result"]) == ("Failed", "no record")
    assert (body["items"], body["wiped"], body["sandbox"]) == ([], {}, {"scan": {}})
    assert body["bytes_out"]["log"] > 0

    outcome = pipeline.run(pipeline.waiting(killed.result), try_number=2)
    assert outcome.error is None, outcome.error
    receipt = ResidencyReceipt.from_json(killed.audit(result=outcome.value).value)
    assert (receipt.run_id, receipt.sequence) == (killed.run_id.removesuffix("1") + "2", 2)
    assert ResidencyReceipt.from_json(killed.audit(result=outcome.value).value) == receipt
    results = [(one["run"]["state"], one["run"]["attempt"], one["audit"]["result"]) for one in bodies(killed.container)]
    assert results == [("Failed", 1, "no record"), ("Completed", 2, "clean")]


@pytest.mark.parametrize("is_cancelled_already", [True, False])
def test_a_run_that_nobody_waits_for_is_cancelled_and_audited(
    started: Callable[..., Audited], *, is_cancelled_already: bool
) -> None:
    cancelled = started(GOES_ON)
    wait_for_line(cancelled.run_id, "script | hello")
    if is_cancelled_already:
        AzureMLEvidenceHook().cancel(cancelled.run_id)
    outcome = cancelled.audit()
    assert (outcome.state, outcome.error) == ("success", None), outcome.error
    (body,) = bodies(cancelled.container)
    assert body["run"]["state"] == "Canceled"
    assert (body["run"]["error"]["code"], body["audit"]["result"]) == ("Canceled", "clean")


def late(audited: Audited, **options: Any) -> AuditLeftRunsOperator:
    fields = {"site": "test", "experiment": "failing", "container": audited.container, **options}
    return AuditLeftRunsOperator(task_id="audit_test", retry_policy=TypedRetryPolicy(), **fields)


def assert_one_clean_receipt(ended: Audited) -> None:
    (body,) = bodies(ended.container)
    about = (body["run"]["id"], body["run"]["dag_run_id"], body["audit"]["result"])
    assert about == (ended.run_id, ended.pipeline.run_id, "clean")


@pytest.fixture
def ended(started: Callable[..., Audited], comms: FakeComms) -> Audited:
    """Give a run with a template among its parameters that has failed, and whose DAG run is over."""
    ended = started(FAILS, parameters={"day": "{{ run_id }}"})
    assert wait_for_end(ended.run_id) == "Failed"
    comms.dag_runs_over.add(ended.pipeline.run_id)
    return ended


def test_a_run_whose_dag_run_was_ended_whole_gets_its_receipt_later(
    started: Callable[..., Audited], comms: FakeComms, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = started(FAILS)
    pipeline = ended.pipeline
    assert wait_for_end(ended.run_id) == "Failed"
    assert ended.run_id not in pipeline.value(late(ended))["audited"]  # its DAG run goes on
    comms.dag_runs_over.add(pipeline.run_id)
    assert pipeline.value(late(ended, window=timedelta(0))) == {"audited": [], "not_audited": []}

    # Neither what was written down at its submission, nor what Airflow knows.
    code = comms.xcom.pop(("check_training_code", "return_value"))
    assert pipeline.value(late(ended, container=f"{ended.container}-else")) == {
        "audited": [],
        "not_audited": [ended.run_id],
    }
    assert "neither the container of receipts nor Airflow knows" in capsys.readouterr().out
    comms.xcom["check_training_code", "return_value"] = code
    # Airflow alone.
    assert pipeline.value(late(ended, container=f"{ended.container}-else"))["audited"] == [ended.run_id]
    (body,) = bodies(f"{ended.container}-else")
    assert body["audit"]["result"] == "clean"


def test_a_run_that_airflow_has_forgotten_gets_its_receipt_by_what_was_written_down_when_it_was_submitted(
    ended: Audited, comms: FakeComms
) -> None:
    comms.xcom.clear()
    pipeline = ended.pipeline
    assert pipeline.value(late(ended)) == {"audited": [ended.run_id], "not_audited": []}
    assert_one_clean_receipt(ended)
    assert pipeline.value(late(ended)) == {"audited": [], "not_audited": []}
    assert len(bodies(ended.container)) == 1


def test_a_run_whose_worker_was_killed_before_it_wrote_its_lineage_gets_lineage_and_receipt_later(
    ended: Audited, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline, hook = ended.pipeline, AzureMLEvidenceHook()
    told = dict(hook.look_up(ended.run_id).tags)
    remove_tags(ended.run_id, list(told))
    # Another one was written down and never sent.
    store = ReceiptStore(ended.container)
    store.note("test", ended.run_id.removesuffix("1") + "2", b"{}")
    assert hook.ended_runs({"site": "test", "dag_run_id": pipeline.run_id}, "failing") == []
    assert pipeline.value(late(ended)) == {"audited": [ended.run_id], "not_audited": []}
    assert f"Run {ended.run_id} has no lineage" in capsys.readouterr().out
    assert_one_clean_receipt(ended)
    tags = hook.look_up(ended.run_id).tags
    assert told.items() <= tags.items()
    assert set(tags) - set(told) == {"residency_receipt"}
    assert pipeline.value(late(ended)) == {"audited": [], "not_audited": []}
    assert "has no lineage" not in capsys.readouterr().out


def test_what_is_not_accounted_for_fails_the_late_audit_once_and_templates_are_as_they_were(ended: Audited) -> None:
    pipeline = ended.pipeline
    from azureml.core import Run

    Run.get(AzureMLEvidenceHook().workspace, ended.run_id).tag("note", "somebody's")
    outcome = pipeline.run_task(late(ended), run_id="the janitor's own")
    assert outcome.state == "failed"
    assert isinstance(outcome.error, ResidencyError)
    (body,) = bodies(ended.container)
    assert [(row["where"], row["what"]) for row in body["audit"]["differences"]] == [("tag", "note")]
    assert pipeline.value(late(ended)) == {"audited": [], "not_audited": []}


def test_a_run_is_audited_by_what_it_was_submitted_with_though_other_data_and_code_were_verified_since(
    started: Callable[..., Audited],
) -> None:
    replaced = started(FAILS)
    assert isinstance(replaced.pipeline.poll(replaced.result).error, RunFailedError)
    fields = replaced.pipeline.fields
    code, data = json.loads(json.dumps(fields["code"])), json.loads(json.dumps(fields["data"]))
    code["files"][0]["sha256"], data["blobs"][0]["content_hash"] = "0" * 64, "md5:" + "0" * 32
    outcome = replaced.audit(code=code, data=data)
    assert (outcome.state, outcome.error) == ("success", None), outcome.error
    (body,) = bodies(replaced.container)
    assert (body["run"]["id"], body["audit"]["result"]) == (replaced.run_id, "clean")
    assert body["data"]["fingerprint"] == BlobManifest.from_json(fields["data"]).fingerprint
    assert body["code"]["digest"] == CodeManifest.from_json(fields["code"]).digest


def test_what_was_written_down_and_changed_since_ends_the_audit(started: Callable[..., Audited]) -> None:
    changed = started(FAILS)
    assert isinstance(changed.pipeline.poll(changed.result).error, RunFailedError)
    store = ReceiptStore(changed.container)
    written = store.noted("test", changed.run_id)
    assert written is not None
    other = changed.run_id.removesuffix("1") + "2"
    for content in (b"", b"{}", written.replace(changed.run_id.encode(), other.encode()), written[:-3]):
        store.note("test", changed.run_id, content)
        error = changed.audit().error
        assert isinstance(error, ResidencyError)
        assert f"What run {changed.run_id} was submitted with cannot be read" in str(error)
    assert store.receipts("test") == []
    store.note("test", changed.run_id, written)
    assert changed.audit().error is None


def test_without_any_run_there_is_nothing_to_audit(residency: dict[str, Any], pipeline: Pipeline) -> None:
    nothing = Audited(pipeline, {}, "receipts-none")
    nothing.fields = {"result": None, "data": None, "code": None}
    assert nothing.audit().state == "skipped"
