"""Watches a DAG run in Airflow's database: often, and at hardly any cost to the machine whose processes are being tried.

Through the API, the three lanes' watching took half a processor of two; and the API server is one of those that are killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, text

from demo.api import TaskState
from demo.metadata_database import MetadataDatabase

if TYPE_CHECKING:
    from datetime import datetime

    from demo.settings import DemoSettings

TASKS = text(
    "SELECT task_id, state, try_number, start_date, end_date FROM task_instance"
    " WHERE dag_id = :dag_id AND run_id = :run_id ORDER BY start_date"
)
DAG_RUN = text("SELECT state FROM dag_run WHERE dag_id = :dag_id AND run_id = :run_id")


@dataclass(frozen=True)
class Seen:
    """A DAG run at one moment.

    :param state: of the DAG run.
    :param tasks: those of its tasks, in the order in which they started.
    """

    state: str
    tasks: list[TaskState]


class Watch:
    """Looks at DAG runs.

    :param settings: where Airflow lives.
    """

    def __init__(self, settings: DemoSettings) -> None:
        self._engine = create_engine(MetadataDatabase(settings).url, pool_size=1, max_overflow=0)

    def look(self, dag_id: str, run_id: str) -> Seen:
        """Return what Airflow has written down of a DAG run.

        :param dag_id: the DAG's id.
        :param run_id: the DAG run's id.
        """
        which = {"dag_id": dag_id, "run_id": run_id}
        with self._engine.connect() as connection:
            state = str(connection.execute(DAG_RUN, which).scalar_one())
            rows = connection.execute(TASKS, which).all()
        tasks = [TaskState(row[0], row[1] or "", row[2], _text(row[3]), _text(row[4])) for row in rows]
        return Seen(state, tasks)

    def close(self) -> None:
        """Give up the connection."""
        self._engine.dispose()


def _text(moment: datetime | None) -> str:
    return moment.isoformat() if moment else ""
