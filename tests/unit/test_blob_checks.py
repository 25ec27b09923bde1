from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from edge_training import blob_checks
from edge_training.blob_checks import BlobLimits, header_problems, listing_problems, parse_header, parse_schema
from edge_training.exceptions import DataVerificationError

NOW = datetime(2026, 11, 2, 3, 0, tzinfo=UTC)
COLUMNS = ("mean_radius", "mean_area", "diagnosis")


@dataclass(frozen=True)
class Blob:
    name: str
    size: int = 1000
    last_modified: datetime = NOW - timedelta(hours=1)


def problems(*blobs: Blob, **limits: object) -> list[str]:
    return listing_problems(blobs, BlobLimits(**limits), NOW)  # type: ignore[arg-type]  # each test gives one limit


def of_header(head: bytes, expected: tuple[str, ...] = COLUMNS, *, complete: bool = True) -> list[str]:
    return header_problems("a.csv", head, complete=complete, expected=expected)


def test_blobs_as_promised_have_no_problem() -> None:
    limits = {"minimum_blobs": 2, "minimum_bytes": 2000, "maximum_bytes": 2000, "maximum_age": timedelta(hours=1)}
    assert problems(Blob("a"), Blob("b"), **limits) == []


def test_too_few_blobs_are_counted() -> None:
    assert problems(minimum_blobs=1) == ["found 0 training blobs, expected at least 1"]
    assert problems(Blob("a"), minimum_blobs=12) == ["found 1 training blobs, expected at least 12"]


def test_too_little_and_too_much_data_is_told_in_readable_units() -> None:
    assert problems(Blob("a"), minimum_bytes=2048) == ["they hold 1000 B in all, expected at least 2.0 KiB"]
    assert problems(Blob("a", 5 << 20), maximum_bytes=1 << 20) == ["they hold 5.0 MiB in all, expected at most 1.0 MiB"]


def test_an_empty_blob_is_named() -> None:
    assert problems(Blob("a"), Blob("b", 0)) == ["blob 'b' is empty"]


def test_the_newest_blob_decides_about_age_and_is_named() -> None:
    old, older = (
        Blob("new.csv", last_modified=NOW - timedelta(days=3)),
        Blob("old.csv", last_modified=NOW - timedelta(days=90)),
    )
    assert problems(old, older, maximum_age=timedelta(days=3)) == []
    (problem,) = problems(old, older, maximum_age=timedelta(days=2))
    assert problem.startswith("the newest blob 'new.csv' is 3.0 days old, expected at most 2.0 days")


def test_age_is_not_asked_of_no_blobs_nor_without_a_limit() -> None:
    assert problems(maximum_age=timedelta(0), minimum_blobs=0) == []
    assert problems(Blob("a", last_modified=NOW - timedelta(days=999))) == []


def test_all_problems_are_told_together() -> None:
    found = problems(
        Blob("a", 0, NOW - timedelta(days=9)), minimum_blobs=2, minimum_bytes=1, maximum_age=timedelta(days=1)
    )
    assert len(found) == 4


def test_a_schema_gives_its_columns_in_order() -> None:
    schema = {"fields": [{"name": name, "type": "number"} for name in COLUMNS], "missingValues": [""]}
    assert parse_schema(json.dumps(schema).encode(), "schema.json") == COLUMNS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "not a Table Schema"),
        (b"{}", "not a Table Schema"),
        (b'{"fields": {}}', "not a Table Schema"),
        (b'{"fields": []}', "not a Table Schema"),
        (b'{"fields": ["a"]}', "not a Table Schema"),
        (b'{"fields": [{"name": "a"}, {"name": ""}]}', "not a Table Schema"),
        (b'{"fields": [{"name": "a"}, {"name": "a"}]}', "more than once: 'a'"),
    ],
)
def test_a_bad_schema_is_named_with_its_fault(content: bytes, message: str) -> None:
    with pytest.raises(DataVerificationError, match=f"Schema blob 's.json'.*{message}"):
        parse_schema(content, "s.json")


@pytest.mark.parametrize(
    "head",
    [
        b"mean_radius,mean_area,diagnosis\n1,2,0\n",
        b"mean_radius,mean_area,diagnosis\r\n1,2,0\r\n",
        b"mean_radius,mean_area,diagnosis\r1,2,0\r",
        b"\xef\xbb\xbfmean_radius,mean_area,diagnosis\n1,2,0\n",
        b'"mean_radius","mean_area","diagnosis"\n1,2,0\n',
        b"mean_radius,mean_area,diagnosis",
    ],
    ids=["lf", "crlf", "cr", "byte order mark", "quotes", "no line end"],
)
def test_a_header_is_read_however_it_is_written(head: bytes) -> None:
    assert parse_header(head, complete=True) == list(COLUMNS)
    assert of_header(head) == []


def test_quoted_names_may_hold_commas_quotes_and_line_ends() -> None:
    assert parse_header(b'"a,b","c ""d""","e\nf"\n1,2,3\n', complete=False) == ["a,b", 'c "d"', "e\nf"]


@pytest.mark.parametrize(
    ("head", "complete", "message"),
    [
        (b"a,b,c", False, "does not end within the first 5 bytes"),
        (b"\n1,2\n", True, "first line is blank"),
        (b" , \n1,2\n", True, "first line is blank"),
        (b"\xff\xfea\n", True, "not UTF-8"),
        (b'"a,b\n1,2\n', True, "not valid CSV"),
    ],
)
def test_a_header_that_cannot_be_read_is_a_problem_of_its_blob(head: bytes, complete: bool, message: str) -> None:
    (problem,) = of_header(head, complete=complete)
    assert problem.startswith("blob 'a.csv': its ")
    assert message in problem


def test_a_missing_column_is_named() -> None:
    assert of_header(b"mean_radius,diagnosis\n") == ["blob 'a.csv': misses column 'mean_area'"]


def test_an_unexpected_column_is_named() -> None:
    (problem,) = of_header(b"mean_radius,mean_area,diagnosis,comment\n")
    assert problem == "blob 'a.csv': has column 'comment' that the schema does not name"


def test_a_misspelt_column_is_named_with_its_place_and_the_right_spelling() -> None:
    assert of_header(b"mean_radius,mean_aera,diagnosis\n") == [
        "blob 'a.csv': column 2 is 'mean_aera', expected 'mean_area'"
    ]


def test_columns_in_another_order_are_told_by_the_first() -> None:
    (problem,) = of_header(b"mean_area,mean_radius,diagnosis\n")
    assert problem.endswith("another order: column 1 is 'mean_area', expected 'mean_radius'")


def test_a_column_that_comes_twice_is_named() -> None:
    assert of_header(b"mean_radius,mean_area,diagnosis,diagnosis\n") == [
        "blob 'a.csv': has column 'diagnosis' more than once"
    ]


def test_a_file_without_header_is_recognised_and_no_value_is_repeated() -> None:
    (problem,) = of_header(b"17.99,1001.0,0\n20.57,1326.0,0\n")
    assert "is the header missing?" in problem
    assert not any(value in problem for value in ("17.99", "1001", "20.57"))


def test_a_name_that_may_be_a_value_is_not_repeated() -> None:
    (problem,) = of_header(b"mean_radius,mean_area,diagnosis,842302\n")
    assert "842302" not in problem
    assert "#4 (name not shown)" in problem


def test_of_many_problems_the_first_are_told_and_the_rest_counted() -> None:
    text = blob_checks.problems_text([f"problem {number}" for number in range(50)])
    assert "problem 19" in text
    assert text.endswith("and 30 more")
    assert "problem 20" not in text


def test_the_table_of_many_blobs_shows_the_newest_and_counts_the_rest() -> None:
    blobs = [Blob(f"{number:03}.csv", last_modified=NOW - timedelta(days=100 - number)) for number in range(100)]
    lines = blob_checks.blob_table(blobs, NOW)
    assert len(lines) == 21
    assert lines[0].split() == ["080.csv", "1000", "B", "20.0", "days", "old"]
    assert lines[-1] == "and 80 older blobs"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 << 20, "1.5 GiB"), (1 << 60, "1024.0 PiB")],
)
def test_sizes_are_told_in_a_readable_unit(size: int, text: str) -> None:
    assert blob_checks.size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 seconds"), (59, "59 seconds"), (150, "2.5 minutes"), (9000, "2.5 hours"), (259200, "3.0 days")],
)
def test_ages_are_told_in_a_readable_unit(seconds: int, text: str) -> None:
    assert blob_checks.age_text(timedelta(seconds=seconds)) == text
