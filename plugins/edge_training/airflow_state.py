"""Asks Airflow whether a task was ended by a person, or only its process by the machine."""

from __future__ import annotations

import threading
from typing import Any

# States in which a task still wants its run: its process may have been told to end all the same, by a deployment, by a machine that
# restarts, or because another triggerer has taken its trigger over.
WANTED = frozenset({"running", "deferred", "queued", "scheduled", "up_for_retry", "up_for_reschedule"})
ANSWER_SECONDS = 10.0


def is_still_wanted(dag_id: str, task_id: str, dag_run_id: str, map_index: int) -> bool:
    """Tell whether a task's run is still wanted; when Airflow does not answer, it is, for the janitor can tell later.

    :param dag_id: the DAG's id.
    :param task_id: the task's id.
    :param dag_run_id: the DAG run's id.
    :param map_index: the task's index when it is mapped, else -1.
    """
    answer: list[str | None] = []

    def ask() -> None:
        answer.append(task_state(dag_id, task_id, dag_run_id, map_index))

    # In a thread: a signal may have interrupted the main thread in the middle of a request to Airflow, and waiting for its end here
    # would be waiting for ourselves.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return not answer or answer[0] in WANTED


def task_state(dag_id: str, task_id: str, dag_run_id: str, map_index: int) -> str | None:
    """Return the state of a task, ``None`` for one that was cleared and waits to be scheduled.

    :param dag_id: the DAG's id.
    :param task_id: the task's id.
    :param dag_run_id: the DAG run's id.
    :param map_index: the task's index when it is mapped, else -1.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states: dict[str, Any] = RuntimeTaskInstance.get_task_states(
        dag_id=dag_id, task_ids=[task_id], run_ids=[dag_run_id], map_index=map_index
    )
    of_run: dict[str, Any] = states.get(dag_run_id, {})
    # A mapped task's key carries its index.
    state = of_run.get(task_id if map_index < 0 else f"{task_id}_{map_index}")
    return None if state is None else str(getattr(state, "value", state))


def is_dag_run_over(dag_id: str, dag_run_id: str) -> bool:
    """Tell whether a DAG run has ended, or does not exist any more.

    :param dag_id: the DAG's id.
    :param dag_run_id: the DAG run's id.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return RuntimeTaskInstance.get_dr_count(dag_id=dag_id, run_ids=[dag_run_id], states=["queued", "running"]) == 0
