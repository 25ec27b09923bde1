"""The remote log comes into the task log line by line, each line once; what a run does is said in words."""

import pytest

from edge_training.exceptions import ServiceError
from edge_training.records import RunStatus
from edge_training.triggers import watcher as module
from edge_training.triggers.watcher import LOG_PREFIX, RunWatcher
from tests.unit.triggers.azure import Azure, Lines


class Watched:
    """A run that is watched."""

    def __init__(self, log: bytes = b"", offset: int = 0, state: str = "Running") -> None:
        self.azure = Azure()
        self.azure.log = log
        self.state = state
        self.lines = Lines()
        self.watcher = RunWatcher(self.azure, "run-1", self.lines, offset)

    def look(self, ahead: int | None = None) -> None:
        self.watcher.see(RunStatus("run-1", self.state, "https://portal/run-1"), ahead, "edge-vm")

    @property
    def remote(self) -> list[str]:
        return self.lines.starting(LOG_PREFIX)


def test_each_line_is_printed_once_however_often_one_looks() -> None:
    run = Watched(b"one\ntwo\n")
    run.look()
    run.look()
    run.azure.log += b"three\n"
    run.look()
    assert run.remote == ["one", "two", "three"]


def test_a_line_is_printed_when_it_is_whole() -> None:
    run = Watched(b"beg")
    run.look()
    assert run.remote == []
    run.azure.log += b"un\n"
    run.look()
    assert run.remote == ["begun"]


def test_the_last_line_is_printed_at_the_end_also_without_a_line_break() -> None:
    run = Watched(b"last words")
    run.look()
    run.state = "Failed"
    run.look()
    assert run.remote == ["last words"]


def test_a_character_split_between_two_looks_is_put_together() -> None:
    text = "Genauigkeit übertroffen\n".encode()
    run = Watched(text[:13])
    run.look()
    run.azure.log = text
    run.look()
    assert run.remote == ["Genauigkeit übertroffen"]


def test_a_watcher_that_knows_an_offset_prints_only_what_is_new() -> None:
    run = Watched(b"old\nnew\n", offset=4)
    run.look()
    assert run.remote == ["new"]
    assert run.watcher.printed == 8


def test_a_log_that_cannot_be_read_is_said_once_and_does_not_end_the_waiting() -> None:
    run = Watched(b"one\n")
    run.azure.log_error = ServiceError("blob storage answers 503", service="Azure ML", status=503)
    run.look()
    run.look()
    assert len([line for line in run.lines if "cannot be read now" in line]) == 1
    run.azure.log_error = None
    run.look()
    assert run.remote == ["one"]


def test_every_change_of_state_is_said_once_with_the_time_in_the_state_before() -> None:
    run = Watched()
    for state in ("Queued", "Queued", "Running", "Running", "Completed"):
        run.state = state
        run.look()
    first, *changes = run.lines.starting("Run run-1: ")
    assert first == "Queued. See https://portal/run-1"
    assert changes == ["Running after 0.0 s in Queued.", "Completed after 0.0 s in Running."]
    assert [state for state, _ in run.watcher.history] == ["Queued", "Running", "Completed"]


def test_a_watcher_that_takes_over_goes_on_with_the_states_that_were_seen_before() -> None:
    lines = Lines()
    watcher = RunWatcher(Azure(), "run-1", lines, 0, [("Queued", 0.0), ("Running", 0.0)])
    assert not watcher.has_news(RunStatus("run-1", "Running"))
    watcher.see(RunStatus("run-1", "Completed"))
    assert lines[0].endswith(" min in Running.")
    assert [state for state, _ in watcher.history] == ["Queued", "Running", "Completed"]


def test_a_queued_run_says_how_many_runs_are_ahead_when_that_changes_and_has_no_log_to_read() -> None:
    run = Watched(b"a line that cannot be", state="Queued")
    for ahead in (2, 2, 1, None, 0):
        run.look(ahead)
    said = run.lines.starting("Run run-1 is waiting for a slot on the VM 'edge-vm' ")
    assert said == ["(2 runs ahead).", "(1 run ahead).", "(0 runs ahead)."]
    assert run.azure.asked["read_log"] == 0


def test_a_run_that_goes_on_is_told_of_from_time_to_time_with_its_latest_metric(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 0.0)
    run = Watched(b"metric | cv = 0.5 (step 1)\nscript | metric | fake = 1\n")
    run.look()
    run.azure.log += b"metric | cv = 0.75 (step 2)\n"
    run.look()
    told = [line for line in run.lines if "Running for" in line]
    assert [line.rpartition("Latest metric: ")[2] for line in told] == ["cv = 0.5 (step 1).", "cv = 0.75 (step 2)."]
    run.state = "Completed"
    run.look()
    assert len([line for line in run.lines if "Running for" in line]) == 2


def test_only_a_new_state_or_another_place_in_the_queue_is_news() -> None:
    run = Watched(state="Queued")
    assert run.watcher.has_news(RunStatus("run-1", "Queued"), None)
    run.look(3)
    assert not run.watcher.has_news(RunStatus("run-1", "Queued"), 3)
    assert not run.watcher.has_news(RunStatus("run-1", "Queued"), None)
    assert run.watcher.has_news(RunStatus("run-1", "Queued"), 2)
    assert run.watcher.has_news(RunStatus("run-1", "Running"), None)
