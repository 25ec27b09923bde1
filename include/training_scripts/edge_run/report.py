"""Tells Azure ML what the gate let out: the only part of a run that holds the run's token.

``azureml.core`` takes 3-8 s to import, so that happens in a thread while the data is fetched and the script already trains;
what is reported in the meantime waits in a queue.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING, Any, Protocol

from edge_run.errors import ReportError

if TYPE_CHECKING:
    from collections.abc import Callable

CLOSE_SECONDS = 180.0


class Reporter(Protocol):
    """Where a run's news go."""

    def metric(self, name: str, value: float, step: int | None) -> None:
        """Report one value of a metric, without waiting."""

    def fail(self, code: str, message: str) -> None:
        """Report why the run fails, without waiting."""

    def close(self) -> None:
        """Wait until everything is told; raise :class:`ReportError` when it cannot be."""


def make_reporter() -> Reporter:
    """Return the reporter to Azure ML when this is a run of it, else one that tells nobody (the log shows everything)."""
    return AzureMLReporter() if os.environ.get("AZUREML_RUN_ID") else NoReporter()


class NoReporter:
    """Tells nobody: the runner was started by hand."""

    def metric(self, name: str, value: float, step: int | None) -> None:
        """Do nothing."""

    def fail(self, code: str, message: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class AzureMLReporter:
    """Tells the run's own record in Azure ML, from a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="azureml", daemon=True)
        self._thread.start()

    def metric(self, name: str, value: float, step: int | None) -> None:
        """Queue one value of a metric."""
        self._queue.put(lambda run: run.log(name, value, step=step))

    def fail(self, code: str, message: str) -> None:
        """Queue the reason of the failure."""
        self._queue.put(lambda run: run.fail(error_details=message, error_code=code))

    def close(self) -> None:
        """Wait until Azure ML has taken everything.

        :raises ReportError: when it has not, within :data:`CLOSE_SECONDS`.
        """
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            raise ReportError(
                f"Azure ML did not take the run's metrics within {CLOSE_SECONDS:.0f} s: is it reachable from the VM?"
            )
        if self._error is not None:
            raise ReportError(
                f"Azure ML did not take the run's metrics ({type(self._error).__name__}: {self._error}): the VM must reach the "
                "workspace, and the run's token must be valid."
            ) from self._error

    def _work(self) -> None:
        try:
            from azureml.core import Run

            run = Run.get_context(allow_offline=False)
            while (tell := self._queue.get()) is not None:
                tell(run)
            run.flush(timeout_seconds=int(CLOSE_SECONDS / 2))
        except BaseException as error:  # noqa: BLE001 - whatever the SDK raises is told by close(), in the main thread
            self._error = error
