"""What may pass is tried again under a deadline, with two lines of log per streak; what may not is raised as it is."""

from __future__ import annotations

import time
from typing import Any

import pytest

from edge_training.exceptions import ConfigurationError, ServiceError
from edge_training.hooks.retrying import NO_PATIENCE, Patience, may_pass, persist

QUICK = Patience(deadline_seconds=30.0, first_pause_seconds=0.0, longest_pause_seconds=0.0)


class Lines:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, *arguments: Any) -> None:
        self.lines.append(message % arguments)

    warning = info


class Service:
    """Raises these errors one after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def busy(status: int | None = 503) -> ServiceError:
    return ServiceError(f"Could not ask: HTTP status {status}.", service="Azure ML", status=status)


def ask(service: Service, log: Lines, patience: Patience = QUICK, wish: float | None = None) -> str:
    return persist(service, doing="ask", patience=patience, log=log, wished_pause=lambda _: wish)


@pytest.mark.parametrize("status", [None, 408, 425, 429, 500, 502, 503, 504])
def test_an_error_that_may_pass_is_tried_again(status: int | None) -> None:
    service = Service(busy(status), busy(status))
    assert ask(service, Lines()) == "answer"
    assert service.calls == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 501, 505])
def test_an_error_that_cannot_pass_is_raised_at_once_and_unchanged(status: int) -> None:
    service, log = Service(busy(status)), Lines()
    with pytest.raises(ServiceError) as error:
        ask(service, log)
    assert (service.calls, log.lines) == (1, [])
    assert str(error.value) == f"Could not ask: HTTP status {status}."


def test_errors_of_other_kinds_are_not_tried_again() -> None:
    assert not may_pass(ConfigurationError("a wrong field"))
    assert not may_pass(ConnectionError("not ours"))
    service = Service(ConfigurationError("a wrong field"))
    with pytest.raises(ConfigurationError):
        ask(service, Lines())
    assert service.calls == 1


def test_a_streak_is_two_lines_however_long_it_is() -> None:
    log = Lines()
    ask(Service(*(busy() for _ in range(7))), log)
    begin, end = log.lines
    assert begin.startswith("Could not ask: HTTP status 503. Trying again until ")
    assert end.startswith("Could ask after 8 tries and ")


def test_a_call_that_succeeds_at_once_is_no_line() -> None:
    log = Lines()
    ask(Service(), log)
    assert log.lines == []


def test_without_patience_there_is_one_try_and_no_line() -> None:
    service, log = Service(busy()), Lines()
    with pytest.raises(ServiceError) as error:
        ask(service, log, NO_PATIENCE, wish=1.0)
    assert (service.calls, log.lines) == (1, [])
    assert "Gave up" not in str(error.value)


def test_giving_up_says_after_how_many_tries() -> None:
    patience = Patience(deadline_seconds=0.2, first_pause_seconds=0.02, longest_pause_seconds=0.05)
    service, log = Service(*(busy() for _ in range(10_000))), Lines()
    with pytest.raises(ServiceError) as error:
        ask(service, log, patience)
    assert service.calls > 1
    assert f"Gave up after {service.calls} tries and " in str(error.value)
    assert (error.value.status, len(log.lines)) == (503, 1)


def test_a_streak_that_ends_with_a_refusal_says_so() -> None:
    service, log = Service(busy(), busy(403)), Lines()
    with pytest.raises(ServiceError, match=r"HTTP status 403\. Gave up after 2 tries"):
        ask(service, log)
    assert len(log.lines) == 1


def test_a_service_is_not_asked_before_the_pause_that_it_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)  # the pauses are looked at, not waited for
    patience = Patience(deadline_seconds=1000.0, first_pause_seconds=1.0, longest_pause_seconds=4.0)
    ask(Service(*(busy(429) for _ in range(20))), Lines(), patience, wish=7.0)
    assert len(pauses) == 20
    assert all(7.0 <= pause <= 11.0 for pause in pauses)
    assert len(set(pauses)) > 10, "the pauses are not random"


def test_a_pause_that_ends_after_the_deadline_is_not_begun() -> None:
    service = Service(busy(429))
    with pytest.raises(ServiceError):
        ask(service, Lines(), wish=31.0)
    assert service.calls == 1


def test_the_last_try_is_at_the_deadline_and_not_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    patience = Patience(deadline_seconds=10.0, first_pause_seconds=50.0, longest_pause_seconds=50.0)
    with pytest.raises(ServiceError):
        ask(Service(*(busy() for _ in range(100))), Lines(), patience)
    assert clock == [pytest.approx(110.0)]
