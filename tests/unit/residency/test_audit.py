"""Whatever Azure ML holds for a run and nobody let out is a difference; what was let out is none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ResidencyError
from edge_training.residency.audit import audit, is_looked_into
from edge_training.residency.evidence import HeldFile, HeldModel, Snapshot
from edge_training.residency.gate_record import parse_record
from edge_training.residency.platform_rules import PlatformRules, shown
from edge_training.residency.statement import table
from tests.unit.residency.runs import (
    CODE,
    END,
    ITEMS,
    LOG,
    MODEL,
    RECORD,
    SNAPSHOT,
    TAGS,
    content_of,
    expected,
    file,
    held,
    item,
    metric,
    record,
    sha256,
    with_artifact,
    with_content,
    without_artifact,
)

if TYPE_CHECKING:
    from edge_training.residency.evidence import Evidence

ROW = b"17.99,10.38,122.8,1001.0,0.1184,0.2776"
FILES = tuple(HeldFile(one.path, one.size, one.sha256) for one in CODE.files)


def where(evidence: Evidence, **changed: Any) -> list[str]:
    return sorted({one.where for one in audit(expected(**changed), evidence).differences})


def snapshot(*files: HeldFile, folders: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"snapshots": (Snapshot(SNAPSHOT, files, folders),)}


def test_a_run_that_holds_exactly_what_was_let_out_is_clean_and_every_byte_is_counted() -> None:
    found = audit(expected(), held())
    assert found.differences == ()
    assert found.is_clean
    assert found.bytes_out["model"] == len(MODEL)
    assert found.bytes_out["log"] == len(LOG + END)
    assert found.bytes_out["code"] == 30
    assert found.bytes_out["total"] == sum(size for kind, size in found.bytes_out.items() if kind != "total")


@pytest.mark.parametrize(
    ("evidence", "place"),
    [
        (with_artifact("outputs/more.bin", b"x"), "artifact"),
        (with_artifact("logs/rows.txt", b"x"), "artifact"),
        (with_artifact("user_logs/std_log_2.txt", b"x"), "artifact"),
        (with_artifact("system_logs/rows.csv", b"x"), "artifact"),
        (with_artifact("azureml-logs/70_driver_log.txt", b"ok\n" + ROW + b"\n"), "artifact"),
        (with_artifact("azureml-logs/70_driver_log.txt", b"A" * 120 + b"\n"), "artifact"),
        (with_artifact("azureml-logs/70_driver_log.txt", b"\x00\x01binary"), "artifact"),
        (with_artifact("azureml-logs/70_driver_log.txt", b"word \n" * 100_000), "artifact"),
        (without_artifact("outputs/model.onnx"), "artifact"),
        (without_artifact("outputs/edge_run.json"), "artifact"),
        (with_content("outputs/model.onnx", b"b model"), "artifact"),
        (with_content("outputs/edge_run.json", RECORD + b" "), "artifact"),
        (with_content("user_logs/std_log.txt", LOG + ROW + b"\n" + END), "log"),
        (with_content("user_logs/std_log.txt", LOG + END + ROW + b"\n"), "log"),
        (with_content("user_logs/std_log.txt", ROW + b"\n" + LOG + END), "log"),
        (with_content("user_logs/std_log.txt", LOG[:-1]), "log"),
        (with_content("user_logs/std_log.txt", LOG), "log"),
        (with_content("user_logs/std_log.txt", LOG + END.replace(b"5 items", b"6 items")), "log"),
        (held(metrics=(*held().metrics, metric("auc", 0.5))), "metric"),
        (held(metrics=(*held().metrics, metric("auc", 0.75))), "metric"),
        (held(metrics=held().metrics[1:]), "metric"),
        (held(metrics=(metric("auc", 0.750001), *held().metrics[1:])), "metric"),
        (held(metrics=(metric("auc", 0.75, 1799), *held().metrics[1:])), "metric"),
        (held(metrics=(metric("auc", "0.75"), *held().metrics[1:])), "metric"),
        (held(metrics=(metric("auc", 0.75, value={"auc": 0.75, "row": 17.99}), *held().metrics[1:])), "metric"),
        (held(metrics=(metric("auc", 0.75, kind="azureml.v1.table"), *held().metrics[1:])), "metric"),
        (held(metrics=(metric("auc", 0.75, value_id="17.99,10.38"), *held().metrics[1:])), "metric"),
        (held(**snapshot(*FILES, HeldFile("project/rows.csv", 9, "c" * 64))), "snapshot"),
        (held(**snapshot(FILES[0])), "snapshot"),
        (held(**snapshot(FILES[0], replace(FILES[1], sha256="c" * 64))), "snapshot"),
        (held(**snapshot(*FILES, folders=("project", "project/17.99"))), "snapshot"),
        (held(snapshots=()), "snapshot"),
        (held(snapshots=(*held().snapshots, Snapshot("other", (HeldFile("x", 1, "d" * 64),)))), "snapshot"),
        (held(tags={**TAGS, "row": "17.99"}), "tag"),
        (held(tags={**TAGS, "site": "other"}), "tag"),
        (held(tags={"site": "local"}), "tag"),
        (held(tags={**TAGS, "residency_receipt": "sha256:" + "9" * 64}), "tag"),
        (held(properties={**held().properties, "row": "x"}), "property"),
        (held(properties={**held().properties, "azureml.row": "17.99 10.38"}), "property"),
        (held(properties={**held().properties, "OtherSnapshotId": "unknown"}), "property"),
        (held(arguments=("--rows", "17.99")), "arguments"),
        (held(variables={"ROW": "17.99"}), "variable"),
        (held(variables={"EXAMPLE_ENV_VAR": "17.99"}), "variable"),
        (held(texts={"description": "17.99"}), "text"),
        (held(error=("UserError", "17.99")), "error"),
        (held(children=("child-1",)), "run below it"),
        (held(models=(HeldModel("m:1", {}, {}),)), "model version"),
        (held(models=(HeldModel("m:1", {}, {"sha256": "e" * 64}),)), "model version"),
        (held(datasets=1), "data set"),
        (held(run_id="another-1"), "run"),
    ],
)
def test_everything_that_nobody_let_out_or_that_is_gone_is_a_difference(evidence: Evidence, place: str) -> None:
    assert place in where(evidence)


def test_a_foreign_artifact_is_named_for_deletion_and_nothing_that_belongs_there_is() -> None:
    found = audit(expected(), with_artifact("outputs/more.bin", b"x"))
    assert found.foreign == ("outputs/more.bin",)
    assert audit(expected(), without_artifact("outputs/model.onnx")).foreign == ()


@pytest.mark.parametrize(
    "evidence",
    [
        with_artifact("azureml-logs/70_driver_log.txt", b"[2026-11-21] Starting the daemon thread\n" + LOG),
        with_artifact("azureml-logs/process_info.json", b'{"pid": 17}'),
        with_artifact("system_logs/lifecycler/lifecycler.log", b"ok\n"),
        held(properties={**held().properties, "ProcessInfoFile": "azureml-logs/process_info.json"}),
        held(models=(HeldModel("m:1", {}, {"sha256": sha256(MODEL)}),)),
    ],
)
def test_what_the_platform_and_the_pipeline_write_themselves_is_no_difference(evidence: Evidence) -> None:
    assert where(evidence) == []


def test_the_receipt_of_an_earlier_try_is_no_difference_and_changes_no_count() -> None:
    digest = "sha256:" + "9" * 64
    again = audit(expected(receipts=frozenset([digest])), held(tags={**TAGS, "residency_receipt": digest}))
    assert again == audit(expected(), held())


def test_a_site_may_name_further_files_of_its_platform_and_they_are_looked_into_too() -> None:
    rules = PlatformRules((r"agent/[a-z]+\.log",))
    assert where(with_artifact("agent/boot.log", b"ok\n"), rules=rules) == []
    assert where(with_artifact("agent/boot.log", ROW), rules=rules) == ["artifact"]


def test_only_files_that_may_be_there_are_fetched() -> None:
    one, rules = parse_record(RECORD), PlatformRules()
    names = ["outputs/edge_run.json", "outputs/model.onnx", "user_logs/std_log.txt", "azureml-logs/70_driver_log.txt"]
    assert all(is_looked_into(name, one, rules) for name in names)
    assert not any(is_looked_into(name, one, rules) for name in ["outputs/other.onnx", "outputs/../x", "rows.csv"])


def test_a_model_that_was_withheld_must_not_be_there() -> None:
    items = [*ITEMS[:-1], item("model", "", b"", "withheld", "it holds rows")]
    content = content_of(record(items=items))
    changed = {"record": parse_record(content), "record_content": content}
    assert "outputs/model.onnx" in audit(expected(**changed), with_content("outputs/edge_run.json", content)).foreign


def test_a_record_of_another_run_is_noticed() -> None:
    content = content_of(record(run_id="another-1"))
    changed = {"record": parse_record(content), "record_content": content}
    assert where(with_content("outputs/edge_run.json", content), **changed) == ["run"]


def test_the_last_words_of_a_run_that_failed_are_compared_by_their_hash() -> None:
    message = "train.py ended with status 1.\nIts last line"
    fields = {"result": "failed", "error_code": "Script", "error_message_sha256": sha256(message.encode())}
    content = content_of(record(**fields))
    changed = {"record": parse_record(content), "record_content": content}
    failed = f"failed | Script: {message}\n".encode() + END.replace(b"completed", b"failed")
    evidence = with_content("outputs/edge_run.json", content)
    log = file("user_logs/std_log.txt", LOG + failed)
    evidence = replace(
        evidence,
        artifacts=(*(one for one in evidence.artifacts if one.name != log.name), log),
        error=("Script", message),
    )
    assert where(evidence, **changed) == []
    assert where(replace(evidence, error=("Script", message + "17.99")), **changed) == ["error"]
    worse = file(log.name, LOG + failed.replace(b"last line", b"17.99"))
    artifacts = (*(one for one in evidence.artifacts if one.name != log.name), worse)
    assert where(replace(evidence, artifacts=artifacts), **changed) == ["log"]


@pytest.mark.parametrize(
    ("name", "is_shown"),
    [
        ("outputs/model_2.onnx", True),
        ("logs/x.txt", True),
        ("17.99,10.38", False),
        ("outputs/17.99_10.38_122.8.txt", False),
        ("a" * 61, False),
        ("a b", False),
        ("\x1b[31m", False),
        ("", False),
    ],
)
def test_a_foreign_name_that_could_carry_data_is_described_and_not_repeated(name: str, is_shown: bool) -> None:
    assert (shown(name, 3) == name) is is_shown
    if not is_shown:
        assert "number 3" in shown(name, 3)


def test_no_difference_repeats_what_was_found() -> None:
    secret = "17.99,10.38,122.8"
    evidence = replace(
        with_content("user_logs/std_log.txt", LOG + secret.encode() + b"\n" + END),
        tags={**TAGS, secret: secret, "site": secret},
        properties={secret: secret, "ContentSnapshotId": SNAPSHOT},
        texts={"description": secret},
        error=(secret, secret),
        children=(secret,),
        arguments=(secret,),
        metrics=(metric(secret, 17.99),),
    )
    found = audit(expected(), evidence)
    assert {"tag", "property", "text", "error", "run below it", "arguments", "metric", "log"} <= {
        one.where for one in found.differences
    }
    assert "17.99" not in "\n".join(table(found, 100))
    assert "17.99" not in repr(found.differences)


def test_the_table_has_a_row_for_each_difference_and_says_how_many_more_there_are() -> None:
    found = audit(expected(), held(tags={**TAGS, **{f"row_{name}": "x" for name in "abcdefgh"}}))
    assert len(table(found)) == 1 + len(found.differences)
    assert table(found, 2)[-1] == "... and 6 more"


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        content_of(record(version=1)),
        content_of(record(items=[{"kind": "model"}])),
        content_of(record(items=[{**ITEMS[0], "bytes": -1}])),
        content_of(record(items=[{**ITEMS[0], "bytes": True}])),
        content_of(record(items=[{**ITEMS[0], "sha256": "short"}])),
        content_of(record(log={"lines": 1, "bytes": 2, "sha256": "x"})),
        content_of(record(sandbox=None)),
        b"[" * 100_000,
    ],
)
def test_a_record_that_is_none_is_refused(broken: bytes) -> None:
    with pytest.raises(ResidencyError, match="version 2"):
        parse_record(broken)
