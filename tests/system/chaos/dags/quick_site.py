"""A DAG per site as `dags/` makes it, for an Airflow in which tasks are killed all the time: it tries again often and soon.

Operators, triggers and their settings are the same. Airflow reads this file, because it has the words "dag" and "airflow".
"""

import json
import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, get_parsing_context

from edge_training import phases, pipeline
from edge_training.site import load_sites

RETRIES = 12
RETRY_DELAY = timedelta(seconds=1)

# Site name → task → attribute → value: what a test wants otherwise.
CHANGES = json.loads(os.environ.get("CHAOS_CHANGES", "{}"))


def quicken(dag: DAG) -> DAG:
    """Let every task try again at once."""
    for task in dag.tasks:
        task.retries = RETRIES
        task.retry_delay = RETRY_DELAY
        task.retry_exponential_backoff = 0
    return dag


sites, mistakes = load_sites(pipeline.SITES)
if mistakes:
    raise mistakes[0]
wanted = get_parsing_context().dag_id
for site in sites:
    # A copy of the training projects, which the harness changes between two rounds as a person would.
    phases.SCRIPTS = Path(os.environ["CHAOS_LANES"]) / site.name / "include" / "training_scripts"
    if wanted not in {None, site.dag_id}:
        continue
    dag = globals()[site.dag_id] = quicken(pipeline.build_dag(site))
    for task_id, attributes in CHANGES.get(site.name, {}).items():
        for name, value in attributes.items():
            setattr(dag.get_task(task_id), name, timedelta(seconds=value) if name.endswith("timeout") else value)

# Whoever plays says when it comes.
if wanted in {None, pipeline.JANITOR}:
    janitor = quicken(pipeline.build_janitor(sites, schedule=None))
