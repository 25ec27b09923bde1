"""Tells Airflow about what this project adds to its UI."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from edge_training.links import ImageLink, ModelLink, RunLink


class EdgeTrainingPlugin(AirflowPlugin):
    """Lists the links under Admin > Plugins; which task has which, its operator says."""

    name = "edge_training"
    operator_extra_links = [RunLink(), ModelLink(), ImageLink()]  # noqa: RUF012 - so Airflow's own class declares it
