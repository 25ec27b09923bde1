"""After a run, everything that Azure ML holds for it is accounted for, or no model comes of it; a signed receipt says what it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ResidencyError
from edge_training.hooks.azure_ml_evidence import AzureMLEvidenceHook
from edge_training.hooks.receipt_store import ReceiptStore
from edge_training.hooks.residency_key import ResidencyKeyHook
from edge_training.operators.model import RegisterModelOperator
from edge_training.records import ModelVersion, ResidencyReceipt
from edge_training.residency.receipt import public_key_text
from edge_training.residency.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.residency.conftest import Audited

# What a human or a process with the workspace's login may do to a run that is over.
ROW = "17.99,10.38,122.8,1001.0,0.1184"


def azure_run(run_id: str) -> Any:
    hook = AzureMLEvidenceHook()
    from azureml.core import Run

    return Run.get(hook.workspace, run_id)


def stored(audited: Audited) -> list[tuple[str, bytes]]:
    store = ReceiptStore(audited.container)
    return [(one.name, store.receipt(one.name)) for one in store.receipts("test")]


def test_an_honest_run_gets_one_receipt_however_often_it_is_audited_and_model_and_run_name_it(
    completed: Audited,
) -> None:
    outcome = completed.audit()
    assert outcome.error is None, outcome.error
    receipt = ResidencyReceipt.from_json(outcome.value)
    assert (receipt.sequence, receipt.withheld) == (1, 0)
    again = ResidencyReceipt.from_json(completed.audit().value)
    assert again == receipt
    assert azure_run(completed.run_id).tags["residency_receipt"] == receipt.digest

    verdict = verify(stored(completed), public_key_text(ResidencyKeyHook().key()), receipt.digest)
    assert verdict.faults == ()
    (one,) = verdict.receipts
    assert one.digest == receipt.digest
    body = one.body
    assert body["run"]["id"] == completed.run_id
    assert body["audit"]["result"] == "clean"
    assert body["audit"]["compared"]["metric_values"] == 3
    assert {item["kind"] for item in body["items"]} == {"metric", "log", "model"}
    assert body["sandbox"]["kind"]
    assert body["wiped"]["grant"] is True
    assert body["bytes_out"]["total"] == receipt.bytes_out > 0
    assert "breast-cancer/" not in json.dumps(body)  # no blob's name

    fields: dict[str, Any] = {
        "task_id": "register_model",
        "site": "test",
        "model_name": "audited",
        "model_file": "model.onnx",
        "data": completed.pipeline.fields["data"],
        "code": completed.pipeline.fields["code"],
        "result": completed.result,
        "receipt": outcome.value,
    }
    forged = {**outcome.value, "models": {"model.onnx": "0" * 64}}
    refused = completed.pipeline.run(RegisterModelOperator(**{**fields, "receipt": forged}))
    assert isinstance(refused.error, ResidencyError)
    model = ModelVersion.from_json(completed.pipeline.value(RegisterModelOperator(**fields)))
    assert model.tags["residency_receipt"] == receipt.digest
    for name in ("code", "data"):
        changed = json.loads(json.dumps(completed.pipeline.fields[name]))
        if name == "code":
            changed["files"][0]["sha256"] = "0" * 64
        else:
            changed["blobs"][0]["content_hash"] = "md5:" + "0" * 32
        assert isinstance(completed.audit(**{name: changed}).error, ResidencyError), name
    # A person who clears the audit after the model was registered gets the same receipt.
    assert ResidencyReceipt.from_json(completed.audit().value).digest == receipt.digest


def test_everything_that_somebody_adds_to_a_run_is_found_in_one_go_and_can_be_deleted(
    completed: Audited, tmp_path: Path
) -> None:
    run = azure_run(completed.run_id)
    rows = tmp_path / "rows.csv"
    rows.write_text(ROW * 20)
    run.upload_file("outputs/rows.csv", str(rows))
    run.upload_file("azureml-logs/70_driver_log.txt", str(rows))
    run.log("accuracy", 17.99)
    run.log("row_1", 10.38)
    run.log_list("accuracies", [17.99, 10.38])
    run.tag("note", ROW)
    run.add_properties({"note": ROW})
    run.child_run(name="below")
    run.display_name = ROW
    run.flush()

    outcome = completed.audit()
    assert outcome.state == "failed"  # never tried again
    assert isinstance(outcome.error, ResidencyError)
    said = str(outcome.error)
    assert "17.99" not in said
    for what in (
        "outputs/rows.csv",
        "azureml-logs/70_driver_log.txt",
        "accuracy",
        "row_1",
        "accuracies",
        "note",
        "run below it",
    ):
        assert what in said
    (name, content) = stored(completed)[0]
    (one,) = verify([(name, content)]).receipts
    differences = {(row["where"], row["what"]) for row in one.body["audit"]["differences"]}
    assert {("tag", "note"), ("property", "note"), ("text", "display_name")} <= differences
    assert "17.99" not in content.decode()
    assert "outputs/rows.csv" in AzureMLEvidenceHook().artifacts(completed.run_id)

    error = completed.audit(delete_foreign_artifacts=True).error
    assert isinstance(error, ResidencyError)
    assert "2 files were deleted" in str(error)
    left = AzureMLEvidenceHook().artifacts(completed.run_id)
    assert set(left) == {"outputs/edge_run.json", "outputs/model.onnx", "user_logs/std_log.txt"}


def test_a_record_that_is_not_on_the_vm_or_was_changed_there_ends_in_an_error(
    completed: Audited, local_site: Any
) -> None:
    path = f".edge-training/records/{completed.run_id}.json"
    kept = local_site.ssh(f"cat {path}").stdout
    changed = kept.replace('"verdict": "passed"', '"verdict": "withheld"', 1)
    assert changed != kept
    for command, said in (
        (f"cp {path} /tmp/kept-{completed.run_id}; sed -i s/passed/withheld/ {path}", "accounted for"),
        (f"echo '{{}}' > {path}", "version"),
        (f"rm {path}", "no record"),
    ):
        assert local_site.ssh(command).returncode == 0
        error = completed.audit().error
        assert isinstance(error, ResidencyError)
        assert said in str(error)
    assert local_site.ssh(f"mv /tmp/kept-{completed.run_id} {path}").returncode == 0
    assert completed.audit().error is None
