"""Records survive the way through XCom, and refuse what is not theirs."""

import dataclasses
import json

import pytest

from edge_training import records
from edge_training.exceptions import ConfigurationError
from edge_training.records import BlobItem, BlobManifest, CodeFile, CodeManifest, ModelVersion, Record, RunResult


def blob(name: str = "a.csv", content_hash: str = "sha256:00", etag: str = '"1"') -> BlobItem:
    return BlobItem(name, 10, etag, content_hash, "2026-11-01T00:00:00+00:00")


def manifest(*blobs: BlobItem) -> BlobManifest:
    return BlobManifest("https://a.blob.b.c", "data", "p/", ("x", "y"), blobs)


EXAMPLES: list[Record] = [
    manifest(blob(), blob("b.csv")),
    CodeManifest("project", (CodeFile("project/train.py", 3, "ab"),)),
    RunResult("run-1", "experiment", "Completed", {"auc": 0.5}, ("outputs/model.onnx",), 1.5, "https://portal"),
    ModelVersion("m", 2, "m:2", "run-1", "model.onnx", "ab", {"site": "s"}),
]


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_equal_after_json_text(record: Record) -> None:
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record


def test_every_record_is_frozen() -> None:
    kinds = [kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, Record)]
    assert len(kinds) > 10
    assert all(kind.__dataclass_params__.frozen for kind in kinds)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "found NoneType"),
        ("text", "found str"),
        ({"run_id": "1"}, "missing ['artifacts'"),
        ({**EXAMPLES[2].to_json(), "colour": "red"}, "unknown ['colour']"),
    ],
)
def test_what_is_not_the_record_is_refused_with_advice(value: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        RunResult.from_json(value)
    assert said in str(error.value)
    assert "clear it together" in str(error.value).lower()


def test_the_fingerprint_stays_when_the_same_data_is_uploaded_again() -> None:
    again = manifest(dataclasses.replace(blob(), etag='"2"', last_modified="2026-12-01T00:00:00+00:00"))
    assert again.fingerprint == manifest(blob()).fingerprint


@pytest.mark.parametrize("changed", [blob("other.csv"), blob(content_hash="sha256:01")])
def test_the_fingerprint_changes_with_names_and_contents(changed: BlobItem) -> None:
    assert manifest(changed).fingerprint != manifest(blob()).fingerprint


def test_the_digest_of_code_changes_with_path_and_content() -> None:
    digests = {
        CodeManifest("p", (file,)).digest
        for file in (CodeFile("a.py", 1, "00"), CodeFile("b.py", 1, "00"), CodeFile("a.py", 1, "01"))
    }
    assert len(digests) == 3
