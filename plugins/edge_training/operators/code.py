"""Decides what code leaves the premises, before anything is sent."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.exceptions import ConfigurationError
from edge_training.records import BlobManifest
from edge_training.residency.code import code_manifest, refuse_blobs, stage_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow.sdk import Context

    from edge_training.records import CodeManifest, JsonObject

RUNNER = "edge_run"


@contextmanager
def staged_source(
    scripts_folder: Path, project: str, policy: Mapping[str, Any] | None = None
) -> Iterator[tuple[Path, CodeManifest]]:
    """Lay out a run's snapshot in a temporary folder.

    :param scripts_folder: holds the projects and the runner.
    :param project: the training project's folder in it.
    :param policy: settings of the gate and the sandbox that travel with the code.
    :raises ConfigurationError: when there is no such project.
    :raises ResidencyError: when a file must not leave the premises.
    """
    folder = scripts_folder / project
    if not (folder / "train.py").is_file():
        raise ConfigurationError(f"Training project '{project}' has no train.py: expected {folder / 'train.py'}.")
    with tempfile.TemporaryDirectory(prefix="edge-training-") as name:
        # Airflow's temporary folder is private to its account, and so is the copy of the code.
        target = Path(name) / "snapshot"
        stage_source(folder, scripts_folder / RUNNER, target, policy)
        yield target, code_manifest(target, project)


class CheckTrainingCodeOperator(BaseOperator):
    """Lists exactly the files that a run's snapshot will carry, and refuses those that must not leave the premises.

    :param project: folder of the scripts folder with ``train.py``.
    :param scripts_folder: ``include/training_scripts``.
    :param data: :class:`~edge_training.records.BlobManifest` of ``verify_blob_data``: none of these blobs may be among the files.
    :param policy: settings of the gate and the sandbox that travel with the code.
    :returns: a :class:`~edge_training.records.CodeManifest`.
    :raises ConfigurationError: when the project does not exist.
    :raises ResidencyError: when a file looks like data, a key, or lies outside the project.
    """

    template_fields = ("project", "data")
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        project: str,
        scripts_folder: str,
        data: Any = None,
        policy: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.project = project
        self.scripts_folder = scripts_folder
        self.data = data
        self.policy = dict(policy or {})

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - the interface of Airflow
        """Stage the snapshot, list it, and log the list."""
        with staged_source(Path(self.scripts_folder), self.project, self.policy) as (source, manifest):
            if self.data is not None:
                refuse_blobs(source, BlobManifest.from_json(self.data))
            total = sum(file.size for file in manifest.files)
            self.log.info("The snapshot has %d files, %d bytes: this is all that is sent.", len(manifest.files), total)
            for file in manifest.files:
                self.log.info("  %8d  %s  %s", file.size, file.sha256[:12], file.path)
            self.log.info("Code digest: %s", manifest.digest)
            return manifest.to_json()
