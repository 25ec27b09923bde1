"""What a run was submitted with, written down on premises before it is sent, so that it can be audited whatever becomes of its DAG run.

A person may clear the tasks that verified data and code while the run goes on, and they may find others then; and Airflow may forget the
DAG run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ConfigurationError, ResidencyError
from edge_training.records import BlobManifest, CodeManifest

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
# Of these notes in the container of receipts. No site is called so: a site's name begins with a letter.
FOLDER = "_submitted"


@dataclass(frozen=True)
class Submitted:
    """What a run was submitted with.

    :param data: the blobs that it may train on.
    :param code: the files of its snapshot.
    :param parameters: what the script was given.
    :param dag_run: ids of the DAG and the DAG run that submitted it.
    """

    data: BlobManifest
    code: CodeManifest
    parameters: Mapping[str, Any]
    dag_run: tuple[str, str]

    def to_bytes(self, run_id: str) -> bytes:
        """Return the note of a run, JSON.

        :param run_id: the run's id.
        """
        note = {
            "version": VERSION,
            "run_id": run_id,
            "data": self.data.to_json(),
            "code": self.code.to_json(),
            "parameters": dict(self.parameters),
            "dag_run": list(self.dag_run),
        }
        return json.dumps(note, sort_keys=True, indent=1).encode()

    @classmethod
    def from_bytes(cls, content: bytes, run_id: str) -> Submitted:
        """Read the note of a run.

        :param content: what :meth:`to_bytes` returned.
        :param run_id: the run's id.
        :raises ResidencyError: when it is not the note of this run.
        """
        try:
            note = json.loads(content)
            dag_id, dag_run_id = note["dag_run"]
            found = cls(
                data=BlobManifest.from_json(note["data"]),
                code=CodeManifest.from_json(note["code"]),
                parameters=dict(note["parameters"]),
                dag_run=(str(dag_id), str(dag_run_id)),
            )
            is_its_own = (note["version"], note["run_id"]) == (VERSION, run_id)
        except (ValueError, TypeError, KeyError, RecursionError, ConfigurationError):
            is_its_own = False
        if not is_its_own:
            raise ResidencyError(
                f"What run {run_id} was submitted with cannot be read from the container of receipts. Somebody changed it there: the "
                "pipeline writes it once, before the run is sent."
            )
        return found
