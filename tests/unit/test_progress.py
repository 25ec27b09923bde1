"""What people read about a run."""

import pytest

from edge_training.progress import duration, history_from, metric_in, phase_table, seen, waiting_for
from edge_training.records import RunStatus


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (4.25, "4.2 s"),
        (42.4, "42 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
    ],
)
def test_a_duration_is_said_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("ahead", "words"), [(0, "0 runs ahead"), (1, "1 run ahead"), (2, "2 runs ahead")])
def test_a_queued_run_says_what_it_waits_for(ahead: int, words: str) -> None:
    assert waiting_for("edge-vm", ahead) == f"waiting for a slot on the VM 'edge-vm' ({words})"


@pytest.mark.parametrize(
    ("line", "metric"),
    [
        ("metric | roc_auc = 0.996017", "roc_auc = 0.996017"),
        ("metric | cv_roc_auc = 0.995653 (step 4)", "cv_roc_auc = 0.995653 (step 4)"),
        ("script | metric | roc_auc = 1", None),
        ("fetch  | 12 blobs verified", None),
        ("", None),
    ],
)
def test_a_metric_is_read_from_the_runner_s_own_lines_only(line: str, metric: str | None) -> None:
    assert metric_in(line) == metric


def test_a_history_goes_through_json_and_what_is_none_is_an_empty_one() -> None:
    history = seen(seen(seen([], "Queued", 1.0), "Queued", 2.0), "Running", 3.0)
    assert history == [("Queued", 1.0), ("Running", 3.0)]
    assert history_from([list(one) for one in history]) == history
    for other in (None, "Queued", {"Queued": 1.0}, [["Queued"]], [["Queued", "yesterday"]]):
        assert history_from(other) == []


def test_the_table_has_every_phase_that_is_known_in_order() -> None:
    status = RunStatus("r", "Completed", started="2026-11-21T10:00:10Z", ended="2026-11-21T10:01:00+00:00")
    history = [("Queued", 1.0), ("Preparing", 6.0), ("Running", 9.0), ("Finalizing", 58.0), ("Completed", 61.0)]
    record = {"seconds": {"another": 2, "broken": "x", "script": 40, "fetch": 0.5}}
    assert phase_table(history, "2026-11-21T10:00:00Z", status, record) == [
        ("queued and prepared", 10.0),
        ("  queued", 5.0),
        ("  preparing", 3.0),
        ("running", 50.0),
        ("  fetch", 0.5),
        ("  script", 40.0),
        ("  another", 2.0),
        ("finalizing", 3.0),
    ]


def test_a_table_without_facts_is_empty() -> None:
    assert phase_table([], "", RunStatus("r", "Completed"), {"seconds": None}) == []
