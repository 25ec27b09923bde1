"""Removes from the training VM what runs that were killed have left there: data, and whatever the script wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edge_training.exceptions import ComputeError
from edge_training.operators.scanning import packed_scanner, run_the_runner

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from edge_training.hooks.training_vm import TrainingVMHook

SECONDS = 600.0
"""There may be a lot to remove."""


def wipe_abandoned(vm: TrainingVMHook, scripts_folder: str, python: str, log: Logger) -> int:
    """Remove the folders of runs that are over on the VM; a run that lives holds a lock in its own, which stays.

    :param vm: the training VM.
    :param scripts_folder: holds ``edge_run``, whose own code does it, sent along: the snapshot that a killed run came from may be gone.
    :param python: an interpreter on the VM.
    :param log: where to say what was removed.
    :returns: how many files were removed.
    :raises ComputeError: when the VM cannot be reached, or something is still there.
    """
    result = run_the_runner(vm, python, packed_scanner(Path(scripts_folder), {}), ["wipe"], seconds=SECONDS)
    try:
        answer = json.loads(result.stdout)
        files, size = int(answer["files"]), int(answer["bytes"])
    except (ValueError, KeyError, TypeError):
        said = (result.stdout.strip() or result.stderr.strip())[-300:] or "it gives no reason"
        raise ComputeError(
            f"{vm.user}@{vm.host} could not remove what killed runs may have left in ~/.edge-training/work (status {result.status}: "
            f"{said}). It may hold training data: remove it there, or clear this task."
        ) from None
    if files:
        log.warning("Wiped %d files, %d bytes, which runs that were killed had left on %s.", files, size, vm.host)
    return files
