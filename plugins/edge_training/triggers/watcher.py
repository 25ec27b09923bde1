"""Says what is new about a run: its states, what it waits for, its log line by line, its latest metric."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from edge_training.exceptions import ServiceError
from edge_training.lifecycle import Phase, phase_of
from edge_training.progress import NOT_BEGUN, QUEUED, History, duration, metric_in, seen, waiting_for

if TYPE_CHECKING:
    from edge_training.records import RunStatus
    from edge_training.triggers.look import RunSource

LOG_PREFIX = "[remote] "
PROGRESS_SECONDS = 60.0


class Log(Protocol):
    """The one method of a logger that a watcher uses."""

    def info(self, message: str, /, *arguments: Any) -> Any:
        """Write a line."""


class RunWatcher:
    """Is shown a run again and again: says what changed, and prints each line of its log once.

    :param source: where to read the log; usually the Azure ML hook.
    :param run_id: the run's id.
    :param log: where to print; usually the task's log.
    :param offset: bytes of the remote log that were printed before.
    :param history: states that were seen before.

    :ivar printed: bytes of the remote log whose lines have been printed.
    :ivar history: the states that were seen, each with its moment.
    """

    def __init__(
        self, source: RunSource, run_id: str, log: Log, offset: int = 0, history: History | None = None
    ) -> None:
        self.source = source
        self.run_id = run_id
        self.log = log
        self.printed = offset
        self.history = list(history or [])
        self._said = self.history[-1][0] if self.history else ""
        self._ahead: int | None = None
        self._metric = ""
        self._next_progress = time.monotonic() + PROGRESS_SECONDS
        self._pending = b""
        self._log_unreachable = False

    def has_news(self, status: RunStatus, ahead: int | None = None) -> bool:
        """Tell whether :meth:`see` has something to do now, apart from a log that may have grown.

        :param status: the run now.
        :param ahead: how many runs are before it, or ``None`` when that is not known.
        """
        return status.state != self._said or (status.state == QUEUED and ahead not in {None, self._ahead})

    def see(self, status: RunStatus, ahead: int | None = None, compute: str = "") -> None:
        """Say what is new about a run, and print what its log has grown by.

        A log that cannot be read is said, once, and is no error.

        :param status: the run now.
        :param ahead: how many runs are before it on its compute target, or ``None`` when that is not known.
        :param compute: the compute target's name.
        """
        self._say_state(status)
        if status.state == QUEUED and ahead is not None and ahead != self._ahead:
            self._ahead = ahead
            self.log.info("Run %s is %s.", self.run_id, waiting_for(compute, ahead))
        if status.state not in NOT_BEGUN:
            self._print_log(last=phase_of(status.state) is not Phase.ACTIVE)
        if time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + PROGRESS_SECONDS
            self._say_progress()

    def _say_state(self, status: RunStatus) -> None:
        before, now = self.history[-1] if self.history else None, time.time()
        self.history = seen(self.history, status.state, now)
        if status.state == self._said:
            return
        self._said = status.state
        if before is None:
            self.log.info("Run %s: %s. See %s", self.run_id, status.state, status.portal_url)
        else:
            self.log.info("Run %s: %s after %s in %s.", self.run_id, status.state, duration(now - before[1]), before[0])

    def _say_progress(self) -> None:
        state, since = self.history[-1]
        if phase_of(state) is Phase.ACTIVE:
            metric = f" Latest metric: {self._metric}." if self._metric else ""
            self.log.info("Run %s: %s for %s.%s", self.run_id, state, duration(time.time() - since), metric)

    def _print_log(self, *, last: bool) -> None:
        try:
            new = self.source.read_log(self.run_id, self.printed + len(self._pending))
        except ServiceError as error:
            if not self._log_unreachable:
                self.log.info("The remote log cannot be read now; the run goes on. %s", error)
            self._log_unreachable = True
            return
        self._log_unreachable = False
        whole, line_break, self._pending = (self._pending + new).rpartition(b"\n")
        if last and self._pending:
            whole, line_break, self._pending = whole + line_break + self._pending, b"", b""
        if whole or line_break:
            for line in whole.decode("utf-8", "replace").split("\n"):
                self._print(line.rstrip("\r"))
        self.printed += len(whole) + len(line_break)

    def _print(self, line: str) -> None:
        self.log.info("%s%s", LOG_PREFIX, line)
        self._metric = metric_in(line) or self._metric
