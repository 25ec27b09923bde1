"""Tries a call of a service again when its error may pass: with jittered pauses, under a deadline, and with two lines of log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from edge_training.exceptions import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long a call is tried again.

    :param deadline_seconds: counted from its first failure; no try begins later. 0 means one try. A service that asks for a pause
        (Retry-After) beyond it is given up at once.
    :param first_pause_seconds: the longest that the first pause can be. Each is random between 0 and twice what the one before could be,
        so that many callers do not come back in step. A service that asks for a longer pause (Retry-After) gets it.
    :param longest_pause_seconds: the longest of all pauses that are ours to choose.
    """

    deadline_seconds: float = 120.0
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 20.0


NO_PATIENCE = Patience(deadline_seconds=0.0)


class Log(Protocol):
    """The two methods of a logger that are used."""

    def info(self, message: str, /, *arguments: Any) -> Any:
        """Write a line."""

    def warning(self, message: str, /, *arguments: Any) -> Any:
        """Write a line that a person should notice."""


def may_pass(error: BaseException) -> bool:
    """Tell whether the same call may succeed in a moment: no answer, 408, 429 or 5xx, and nothing else.

    :param error: what the call raised.
    """
    return isinstance(error, ServiceError) and error.retryable


def persist(
    call: Callable[[], Result],
    *,
    doing: str,
    patience: Patience,
    log: Log,
    wished_pause: Callable[[BaseException], float | None],
) -> Result:
    """Call until it succeeds, its error cannot pass, or patience ends.

    :param call: what is tried; it must be safe to do twice.
    :param doing: what it does, to end the sentence "Could not ...".
    :param patience: how long.
    :param log: gets one line when a streak of failures begins and one when it is over.
    :param wished_pause: seconds that the service asks for in an error, or ``None``.
    :raises ServiceError: the last error; after more than one try it says how many there were.
    """
    streak = _Streak(doing, patience, log, wished_pause)
    retrying = Retrying(
        retry=retry_if_exception(may_pass),
        wait=streak.pause,
        stop=streak.is_over,
        before_sleep=streak.note,
        sleep=time.sleep,
        reraise=True,
    )
    try:
        result = retrying(call)
    except ServiceError as error:
        streak.say_given_up(error)
        raise
    streak.say_recovered()
    return result


class _Streak:
    """One call's failures in a row."""

    def __init__(
        self, doing: str, patience: Patience, log: Log, wished_pause: Callable[[BaseException], float | None]
    ) -> None:
        self.doing = doing
        self.patience = patience
        self.log = log
        self.wished_pause = wished_pause
        self.began: float | None = None
        self.failures = 0
        self.over = False
        self.jitter = wait_random_exponential(
            multiplier=patience.first_pause_seconds, max=patience.longest_pause_seconds
        )

    @property
    def seconds(self) -> float:
        return 0.0 if self.began is None else time.monotonic() - self.began

    def pause(self, state: RetryCallState) -> float:
        """Return how long to wait; tenacity asks this first after each failure. The last try is at the deadline itself."""
        if self.began is None:
            self.began = time.monotonic()
        self.failures += 1
        left = self.patience.deadline_seconds - self.seconds
        wished = self.wished_pause(_error_of(state)) or 0.0
        self.over = left <= 0 or wished > left
        return max(0.0, min(left, wished + self.jitter(state)))

    def is_over(self, _: RetryCallState) -> bool:
        """Tell whether there is no time for another try."""
        return self.over

    def note(self, state: RetryCallState) -> None:
        """Say that a streak begins, once."""
        if self.failures > 1:
            return
        error = _error_of(state)
        until = datetime.now(UTC) + timedelta(seconds=self.patience.deadline_seconds)
        self.log.warning("%s Trying again until %s UTC.", error, until.strftime("%H:%M:%S"))

    def say_recovered(self) -> None:
        if self.failures:
            self.log.info("Could %s after %d tries and %.1f s.", self.doing, self.failures + 1, self.seconds)

    def say_given_up(self, error: ServiceError) -> None:
        if self.failures > 1 or (self.failures and not may_pass(error)):
            tries = self.failures if may_pass(error) else self.failures + 1
            error.args = (f"{error} Gave up after {tries} tries and {self.seconds:.1f} s.",)


def _error_of(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    if error is None:
        raise RuntimeError("There is no pause without a failure.")
    return error
