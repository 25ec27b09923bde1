"""What a script leaves in ``outputs/`` and ``logs/``, taken in while it goes on and once more when it has ended."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from local_site.azure_ml.artifacts.state import RUN_ORIGIN
from local_site.azure_ml.errors import BadRequestError, ConflictError
from local_site.azure_ml.web import container_of

if TYPE_CHECKING:
    from local_site.azure_ml.artifacts.state import Artifacts
    from local_site.azure_ml.execution.jobs import Jobs
    from local_site.azure_ml.execution.remote import RunFolder

LOOK_SECONDS = 2.0
AT_ONCE = 1000
LARGEST_EARLY = 64 * 1024 * 1024
LARGEST_GROWING = 4 * 1024 * 1024

log = logging.getLogger("local_site.azure_ml")


class Collector:
    """Takes in the files of one run. What the script has uploaded itself is the script's, and stays as it is.

    :param run_id: the run.
    """

    def __init__(self, run_id: str, jobs: Jobs, artifacts: Artifacts) -> None:
        self._run_id = run_id
        self._jobs = jobs
        self._artifacts = artifacts
        self._taken = jobs.collected(run_id)
        self._seen: dict[str, str] = {}
        self._looked = time.monotonic()

    def look(self, folder: RunFolder) -> None:
        """Take in what has appeared, every few seconds: a file that rests, or a small log that grows."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        stamps = {}
        ready = []
        for name, (size, changed) in folder.listing().items():
            stamp = stamps[name] = f"{size} {changed}"
            rests = self._seen.get(name) == stamp and size <= LARGEST_EARLY
            grows = name.startswith("logs/") and size <= LARGEST_GROWING
            if (rests or grows) and self._taken.get(name) != stamp:
                ready.append(name)
        self._seen = stamps
        self._take(folder, ready, stamps)

    def finish(self, folder: RunFolder) -> None:
        """Take in everything that is there and was not taken as it is now."""
        stamps = {name: f"{size} {changed}" for name, (size, changed) in folder.listing().items()}
        self._take(folder, [name for name in stamps if self._taken.get(name) != stamps[name]], stamps)

    def _take(self, folder: RunFolder, names: list[str], stamps: dict[str, str]) -> None:
        for start in range(0, len(names), AT_ONCE):
            for name, content in folder.fetch(names[start : start + AT_ONCE]):
                if blob := self._blob(name):
                    self._artifacts.blobs.write(blob, content)
                    self._taken[name] = stamps.get(name, "")
                    self._jobs.note_collected(self._run_id, name, self._taken[name])

    def _blob(self, name: str) -> str:
        """Return the key of the blob for a file, or ``""`` when the name is the script's own, or not allowed."""
        container = container_of(self._run_id)
        try:
            if name in self._taken:
                return self._artifacts.get(RUN_ORIGIN, container, name).blob
            return self._artifacts.reserve(RUN_ORIGIN, container, name).blob
        except (ConflictError, BadRequestError) as error:
            log.warning("run %s: %s is not uploaded: %s", self._run_id, name, error.message)
            return ""
