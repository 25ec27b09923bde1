"""Fixtures of the unit tests: a worker for one task, and connections."""

from __future__ import annotations

from tests.airflow_harness import airflow_connection, comms, run_task

__all__ = ["airflow_connection", "comms", "run_task"]
