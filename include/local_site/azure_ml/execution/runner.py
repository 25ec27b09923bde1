"""One submitted run, from the queue to its end, on the virtual machine that it is for."""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from local_site.azure_ml.artifacts.state import RUN_ORIGIN, Artifact, Artifacts
from local_site.azure_ml.clock import parse_utc
from local_site.azure_ml.errors import ServiceError
from local_site.azure_ml.execution.collector import Collector
from local_site.azure_ml.execution.definition import Definition, UnsupportedError, read_definition
from local_site.azure_ml.execution.environment import control_files
from local_site.azure_ml.execution.jobs import Job, Jobs, Outcome
from local_site.azure_ml.execution.remote import RunFolder
from local_site.azure_ml.ssh import CHUNK, VMError, VMUnreachableError, logged_in
from local_site.azure_ml.web import container_of

if TYPE_CHECKING:
    from local_site.azure_ml.arm.state import Computes
    from local_site.azure_ml.history.state import History
    from local_site.azure_ml.identity.tokens import Tokens
    from local_site.azure_ml.settings import Settings
    from local_site.azure_ml.snapshots.state import Snapshots

LOG = "user_logs/std_log.txt"
SILENCE_SECONDS = 0.3
CHECK_SECONDS = 15.0
TAIL_BYTES = 2000
PID_SECONDS = 5.0

log = logging.getLogger("local_site.azure_ml")


@dataclass(frozen=True)
class Means:
    """What a run needs of the rest of the server."""

    settings: Settings
    tokens: Tokens
    jobs: Jobs
    history: History
    computes: Computes
    snapshots: Snapshots
    artifacts: Artifacts


class Execution:
    """Carries one run through; whatever goes wrong, the run ends with a reason.

    :param job: the run.
    :param resumed: whether an earlier process had begun it.
    """

    def __init__(self, job: Job, means: Means, *, resumed: bool) -> None:
        self.job = job
        self._means = means
        self._resumed = resumed
        self._seen_at = time.monotonic()
        self._stop = threading.Event()
        self._collector = Collector(job.run_id, means.jobs, means.artifacts)
        if job.cancel:
            self._stop.set()

    def cancel(self) -> None:
        """End the run soon."""
        self._stop.set()

    def carry_out(self) -> None:
        """Do everything, and write down how it ended."""
        outcome = self._means.jobs.outcome(self.job.run_id) or self._try()
        self._means.jobs.note_outcome(self.job.run_id, outcome)
        self._means.history.set_status(self.job.run_id, outcome.status, outcome.error)
        log.info("run %s ended as %s", self.job.run_id, outcome.status)

    def _try(self) -> Outcome:
        try:
            return self._on_the_machine(read_definition(self.job.configuration))
        except UnsupportedError as error:
            return Outcome.failed("UserError", str(error))
        except VMError as error:
            return Outcome.failed(error.code, f"Run {self.job.run_id} on compute {self.job.compute}: {error.message}")
        except ServiceError as error:
            return Outcome.failed(error.code, error.message)
        except Exception as error:  # a run must end, with a reason, whatever breaks in here
            log.exception("run %s broke", self.job.run_id)
            return Outcome.failed("ServiceError", f"The service failed to carry out run {self.job.run_id}: {error!r}")

    def _on_the_machine(self, definition: Definition) -> Outcome:
        """Start the run if it is not started, and stay with it, logging in again when the connection breaks.

        :raises VMError: when the machine cannot be used, or stays out of sight for too long.
        """
        while True:
            try:
                with logged_in(self._means.computes.login(self.job.compute)) as vm:
                    folder = RunFolder(vm, self.job.run_id)
                    return self._in_folder(folder, definition)
            except VMUnreachableError:
                out_of_sight = time.monotonic() - self._seen_at
                if not self._resumed or out_of_sight > self._means.settings.vm_loss_seconds:
                    raise
                time.sleep(0.5)

    def _in_folder(self, folder: RunFolder, definition: Definition) -> Outcome:
        self._seen_at = time.monotonic()
        if not self._resumed:
            folder.remove()  # of a run with this id that this server does not know of any more
            self._means.artifacts.forget(RUN_ORIGIN, container_of(self.job.run_id), LOG)
        if not folder.has("launched"):
            if self._means.history.run(self.job.run_id)["status"] not in {"Preparing", "CancelRequested"}:
                return Outcome.failed("RunLost", f"The folder of run {self.job.run_id} is gone from the machine.")
            if self._stop.is_set():
                return Outcome("Canceled")
            self._launch(folder, definition)
        self._resumed = True  # from here on the run may be found again
        if not folder.wait_for("pid", PID_SECONDS):
            return Outcome.failed("RunLost", f"Run {self.job.run_id} was interrupted while it was being started.")
        return self._stay_with(folder, definition)

    def _launch(self, folder: RunFolder, definition: Definition) -> None:
        means = self._means
        token = means.tokens.for_run(self.job.run_id)
        blobs = {
            name: means.artifacts.blobs.path(key) for name, key in means.snapshots.files(self.job.snapshot_id).items()
        }
        if definition.script not in blobs:
            raise UnsupportedError(f"The script {definition.script} is not in the snapshot.")
        files = control_files(self.job, definition, means.settings, token, folder.home)
        try:
            folder.fill(files, blobs, means.snapshots.folders(self.job.snapshot_id))
            folder.launch()
        except VMUnreachableError:
            raise
        except VMError:
            folder.remove()
            raise
        means.history.set_status(self.job.run_id, "Running")

    def _stay_with(self, folder: RunFolder, definition: Definition) -> Outcome:
        grown = self._means.artifacts.growing(RUN_ORIGIN, container_of(self.job.run_id), LOG)
        ending = self._follow(folder, definition, grown)
        folder.end(gently=ending is not None)
        if ending is None:
            self._means.history.set_status(self.job.run_id, "Finalizing")
        outcome = ending or self._judge(folder, definition, grown)
        if definition.collects:
            self._collector.finish(folder)
        self._means.artifacts.blobs.sync(grown.blob)
        self._means.jobs.note_outcome(self.job.run_id, outcome)
        folder.remove()
        return outcome

    def _follow(self, folder: RunFolder, definition: Definition, grown: Artifact) -> Outcome | None:
        """Copy the script's output into its log until it ends.

        :return: ``None`` when it ended itself, and otherwise why it must end.
        """
        blobs = self._means.artifacts.blobs
        limit = self._limit(definition)
        checked = time.monotonic()
        with folder.following(blobs.size(grown.blob), SILENCE_SECONDS) as channel:
            while True:
                self._seen_at = time.monotonic()
                if definition.collects:
                    self._collector.look(folder)
                if self._stop.is_set():
                    return Outcome("Canceled")
                if limit is not None and datetime.now(UTC).timestamp() > limit:
                    seconds = definition.max_seconds
                    message = f"Run {self.job.run_id} took longer than its {seconds} s (maxRunDurationSeconds) and was canceled."
                    return Outcome.failed("MaxRunDurationExceeded", message, status="Canceled")
                try:
                    part = channel.recv(CHUNK)
                except TimeoutError:
                    if time.monotonic() - checked > CHECK_SECONDS:
                        checked = time.monotonic()
                        folder.alive()
                    continue
                if not part:
                    return self._ended(channel.recv_exit_status())
                blobs.append(grown.blob, part)

    @staticmethod
    def _ended(status: int) -> None:
        """Tell an end of the script from an end of the connection.

        :raises VMUnreachableError: when the follower itself was cut off.
        """
        if status != 0:
            raise VMUnreachableError("The connection to the machine broke while the run was followed.")

    def _limit(self, definition: Definition) -> float | None:
        if not definition.max_seconds:
            return None
        started = self._means.history.run(self.job.run_id)["started"]
        since = parse_utc(started) if started else datetime.now(UTC)
        return since.timestamp() + definition.max_seconds

    def _judge(self, folder: RunFolder, definition: Definition, grown: Artifact) -> Outcome:
        status = folder.status()
        if status and folder.unprepared():
            message = f"The environment of run {self.job.run_id} cannot be made: {self._tail(grown)}"
            return Outcome.failed("EnvironmentBuildFailed", message)
        if status == 0:
            return Outcome("Completed")
        if status is None:
            return Outcome.failed(
                "RunLost",
                f"The process of run {self.job.run_id} vanished without an exit status: it was killed together with its "
                "process group, or the virtual machine was restarted.",
            )
        return Outcome.failed(
            "UserError",
            f"Execution failed. User process '{definition.interpreter}' exited with status code {status}{_signal(status)}. "
            f"Please check log file '{LOG}' for error details. Its end: {self._tail(grown)}",
        )

    def _tail(self, grown: Artifact) -> str:
        with self._means.artifacts.blobs.path(grown.blob).open("rb") as stream:
            stream.seek(max(0, self._means.artifacts.blobs.size(grown.blob) - TAIL_BYTES))
            return stream.read(TAIL_BYTES).decode("utf-8", "replace").strip() or "(empty)"


def _signal(status: int) -> str:
    try:
        return f" (killed by {signal.Signals(status - 128).name})" if status > 128 else ""
    except ValueError:
        return ""
