"""The remote log comes into the task log line by line, each line once."""

import pytest

from edge_training.exceptions import ServiceError
from edge_training.records import RunStatus
from edge_training.triggers.run import LOG_PREFIX, RunWatcher


class Azure:
    """A run whose state and log the test sets."""

    def __init__(self, state: str = "Running", log: bytes = b"") -> None:
        self.state = state
        self.log = log
        self.log_error: ServiceError | None = None

    def get_run(self, run_id: str) -> RunStatus:
        return RunStatus(run_id, self.state, f"https://portal/{run_id}")

    def read_log(self, run_id: str, offset: int) -> bytes:
        if self.log_error is not None:
            raise self.log_error
        return self.log[offset:]

    def cancel(self, run_id: str) -> None:
        self.state = "Canceled"


class Lines(list[str]):
    def info(self, message: str, /, *arguments: object) -> None:
        self.append(message % arguments if arguments else message)

    @property
    def remote(self) -> list[str]:
        return [line.removeprefix(LOG_PREFIX) for line in self if line.startswith(LOG_PREFIX)]


def watch(azure: Azure, offset: int = 0) -> tuple[RunWatcher, Lines]:
    lines = Lines()
    return RunWatcher(azure, "run-1", lines, offset), lines


def test_each_line_is_printed_once_however_often_one_looks() -> None:
    azure = Azure(log=b"one\ntwo\n")
    watcher, lines = watch(azure)
    watcher.look()
    watcher.look()
    azure.log += b"three\n"
    watcher.look()
    assert lines.remote == ["one", "two", "three"]


def test_a_line_is_printed_when_it_is_whole() -> None:
    azure = Azure(log=b"beg")
    watcher, lines = watch(azure)
    watcher.look()
    assert lines.remote == []
    azure.log += b"un\n"
    watcher.look()
    assert lines.remote == ["begun"]


def test_the_last_line_is_printed_at_the_end_also_without_a_line_break() -> None:
    azure = Azure(log=b"last words")
    watcher, lines = watch(azure)
    watcher.look()
    azure.state = "Failed"
    watcher.look()
    assert lines.remote == ["last words"]


def test_a_character_split_between_two_looks_is_put_together() -> None:
    text = "Genauigkeit übertroffen\n".encode()
    azure = Azure(log=text[:13])
    watcher, lines = watch(azure)
    watcher.look()
    azure.log = text
    watcher.look()
    assert lines.remote == ["Genauigkeit übertroffen"]


def test_a_watcher_that_knows_an_offset_prints_only_what_is_new() -> None:
    watcher, lines = watch(Azure(log=b"old\nnew\n"), offset=4)
    watcher.look()
    assert lines.remote == ["new"]
    assert watcher.printed == 8


def test_a_log_that_cannot_be_read_is_said_once_and_does_not_end_the_waiting() -> None:
    azure = Azure(log=b"one\n")
    azure.log_error = ServiceError("blob storage answers 503", service="Azure ML", status=503)
    watcher, lines = watch(azure)
    assert watcher.look().state == "Running"
    watcher.look()
    assert len([line for line in lines if "cannot be read now" in line]) == 1
    azure.log_error = None
    watcher.look()
    assert lines.remote == ["one"]


def test_every_change_of_state_is_said_once() -> None:
    azure = Azure("Queued")
    watcher, lines = watch(azure)
    for state in ("Queued", "Queued", "Running", "Running", "Completed"):
        azure.state = state
        watcher.look()
    said = [line for line in lines if line.startswith("Run run-1")]
    assert [line.split(": ")[1].split(" ")[0].rstrip(".") for line in said] == ["Queued", "Running", "Completed"]


def test_a_state_that_cannot_be_read_is_an_error() -> None:
    class Silent(Azure):
        def get_run(self, run_id: str) -> RunStatus:
            raise ServiceError("no answer", service="Azure ML")

    watcher, _ = watch(Silent())
    with pytest.raises(ServiceError, match="no answer"):
        watcher.look()
