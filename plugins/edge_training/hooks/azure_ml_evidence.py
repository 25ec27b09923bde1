"""What Azure ML holds for a run, collected for the audit: everything that it shows, as it is, without a judgement."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ResidencyError, ServiceError
from edge_training.hooks import azure_ml_calls as calls
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.hooks.azure_ml_records import run_error
from edge_training.lifecycle import TERMINAL
from edge_training.lineage import DAG_ID, DAG_RUN_ID
from edge_training.residency.evidence import Evidence, HeldFile, HeldMetric, HeldModel, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from edge_training.hooks.azure_ml_history import RunHistory
    from edge_training.hooks.azure_ml_records import ListedRun

RUN_ORIGIN = "ExperimentRun"
SNAPSHOT_PROPERTY = "SnapshotId"
"""What the names of properties end in that name a snapshot; ``ContentSnapshotId`` is the one that a submission sets."""
LARGEST_TEXT_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


class AzureMLEvidenceHook(AzureMLHook):
    """Asks Azure ML for everything that it holds for a run, marks a run with its receipt, and deletes what must not be there.

    :param conn_id: see :class:`~edge_training.hooks.azure_ml.AzureMLHook`.
    """

    def evidence(self, run_id: str, fetch: Callable[[str], bool]) -> Evidence:
        """Return everything that Azure ML holds for a run.

        :param run_id: the run's id.
        :param fetch: tells by a file's name whether its content is wanted.
        :raises ServiceError: when Azure ML cannot be asked.
        :raises ResidencyError: when a snapshot cannot be read as one.
        """
        return self._call(
            f"collect what it holds for run '{run_id}'", lambda workspace: _evidence(workspace, run_id, fetch)
        )

    def runs_of_dag_run(self, dag_id: str, dag_run_id: str, experiment: str | None = None) -> list[ListedRun]:
        """Return all runs that a DAG run has submitted, in whatever state they are, oldest first.

        :param dag_id: the DAG's id.
        :param dag_run_id: the DAG run's id.
        :param experiment: the experiment's name; ``None`` for all, with a request for each.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        wanted = {DAG_ID: dag_id, DAG_RUN_ID: dag_run_id}
        # A quotation mark could not be asked for; what was found is compared in any case.
        asked = {name: value for name, value in wanted.items() if '"' not in value}
        states = [*calls.active_states(), *TERMINAL]
        found = self._listed(f"list the runs of DAG run '{dag_run_id}'", asked, states, experiment)
        return [run for run in found if wanted.items() <= run.tags.items()]

    def ended_runs(self, tags: Mapping[str, str], experiment: str | None = None) -> list[ListedRun]:
        """Return the runs that have ended, well or not, and carry all these tags, oldest first.

        :param tags: tags and their values.
        :param experiment: the experiment's name; ``None`` for all, with a request for each.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        return self._listed("list the runs that have ended", tags, [*TERMINAL], experiment)

    def _listed(
        self, doing: str, tags: Mapping[str, str], states: Sequence[str], experiment: str | None
    ) -> list[ListedRun]:
        def look(history: RunHistory) -> list[ListedRun]:
            names = history.experiments() if experiment is None else [experiment]
            return [run for name in names for run in history.active(name, states, tags)]

        return sorted(self._read(doing, look), key=lambda run: run.created)

    def delete_artifact(self, run_id: str, name: str) -> None:
        """Delete one file of a run, content and all.

        :param run_id: the run's id.
        :param name: the file's name.
        :raises ServiceError: when Azure ML refuses or cannot be asked; a file that is gone already is fine.
        """

        def delete(workspace: Any) -> None:
            run = calls.get_run(workspace, run_id)
            client = _artifacts(run)
            client._execute_with_workspace_arguments(  # noqa: SLF001 - the SDK has no public way to delete an artifact
                client._client.artifact.delete_meta_data,  # noqa: SLF001 - likewise
                RUN_ORIGIN,
                _container(run),
                name,
                hard_delete=True,
            )

        try:
            self._call(f"delete a file of run '{run_id}'", delete)
        except ServiceError as error:
            if error.status != 404:
                raise


def _evidence(workspace: Any, run_id: str, fetch: Callable[[str], bool]) -> Evidence:
    run = calls.get_run(workspace, run_id)
    details = run.get_details()
    definition = details.get("runDefinition") or {}
    properties = {**(details.get("properties") or {}), **(run.properties or {})}
    with tempfile.TemporaryDirectory(prefix="edge-training-") as folder:
        return Evidence(
            run_id=str(run.id),
            state=str(details["status"]),
            texts=_texts(run, details),
            error=run_error(details.get("error")) if details.get("error") else ("", ""),
            tags=dict(run.tags or {}),
            properties=properties,
            arguments=tuple(str(word) for word in definition.get("arguments") or ()),
            variables=_variables(definition),
            snapshots=tuple(_snapshots(run, properties, Path(folder))),
            artifacts=tuple(_files(run, fetch, Path(folder))),
            metrics=tuple(_metrics(run)),
            children=tuple(str(child.id) for child in run.get_children(recursive=True, _rehydrate_runs=False)),
            models=tuple(_models(workspace, run_id)),
            datasets=len(details.get("inputDatasets") or ()) + len(details.get("outputDatasets") or ()),
        )


def _texts(run: Any, details: Mapping[str, Any]) -> dict[str, str]:
    """Return what a sender can write freely into a run's record."""
    display = str(run.display_name or "")
    found = {
        "display_name": "" if display == str(run.id) else display,
        "description": str(run.description or ""),
        "warnings": " ".join(str(one) for one in details.get("warnings") or ()),
    }
    return {name: text for name, text in found.items() if text}


def _variables(definition: Mapping[str, Any]) -> dict[str, str]:
    environment = definition.get("environment") or {}
    both = {**(environment.get("environmentVariables") or {}), **(definition.get("environmentVariables") or {})}
    return {str(name): str(value) for name, value in both.items()}


def _snapshots(run: Any, properties: Mapping[str, str], folder: Path) -> Iterator[Snapshot]:
    for snapshot_id in sorted({value for name, value in properties.items() if name.endswith(SNAPSHOT_PROPERTY)}):
        path = Path(run.restore_snapshot(snapshot_id, path=str(folder)))
        yield read_snapshot(snapshot_id, path)


def read_snapshot(snapshot_id: str, path: Path) -> Snapshot:
    """Read a snapshot that was downloaded as a ZIP file.

    :param snapshot_id: the service's id.
    :param path: the ZIP file.
    :raises ResidencyError: when it is none, or names a file twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len({entry.filename for entry in entries}) != len(entries):
                raise ResidencyError(
                    f"Snapshot {snapshot_id} in Azure ML names a file twice: somebody made it to mislead."
                )
            files = [_zipped(archive, entry) for entry in entries if not entry.is_dir()]
            folders = [entry.filename.rstrip("/") for entry in entries if entry.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ResidencyError(
            f"Snapshot {snapshot_id} in Azure ML cannot be read ({type(error).__name__}), so nobody knows what code left."
        ) from None
    return Snapshot(snapshot_id, tuple(files), tuple(folders))


def _zipped(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> HeldFile:
    digest, size = hashlib.sha256(), 0
    with archive.open(entry) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return HeldFile(entry.filename, size, digest.hexdigest())


def _files(run: Any, fetch: Callable[[str], bool], folder: Path) -> Iterator[HeldFile]:
    for number, name in enumerate(sorted(run.get_file_names())):
        if not fetch(name):
            yield HeldFile(name)
            continue
        target = folder / f"artifact-{number}"
        run.download_file(name, output_file_path=str(target))
        yield _downloaded(name, target)
        target.unlink()


def _downloaded(name: str, path: Path) -> HeldFile:
    size = path.stat().st_size
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return HeldFile(name, size, sha256, path.read_bytes() if size <= LARGEST_TEXT_BYTES else None)


def _metrics(run: Any) -> Iterator[HeldMetric]:
    client = run._client.metrics  # noqa: SLF001 - the public get_metrics() drops steps, ids and all but the newest columns
    for name in client.list_metric_names_for_run_id(run.id):
        dto = client.get_metric_dto_for_run_v2(name, run_id=run.id)
        for one in dto.value if dto is not None else ():
            kind = str(dto.properties.ux_metric_type or "") if dto.properties else ""
            yield HeldMetric(str(dto.name), kind, dict(one.data or {}), one.step, str(one.metric_id or ""))


def _models(workspace: Any, run_id: str) -> Iterator[HeldModel]:
    from azureml.core import Model

    for model in Model.list(workspace, run_id=run_id, expand=False):
        yield HeldModel(str(model.id), dict(model.tags or {}), dict(model.properties or {}))


def _artifacts(run: Any) -> Any:
    return run._client.artifacts  # noqa: SLF001 - the SDK has no public way to delete an artifact


def _container(run: Any) -> str:
    return str(run._container)  # noqa: SLF001 - likewise
