"""The local site's DAG as `dags/` makes it, for an Airflow in which tasks are killed all the time: it tries again often and soon.

Operators, triggers and their settings are the same. Airflow reads this file, because it has the words "dag" and "airflow".
"""

import os
from datetime import timedelta
from pathlib import Path

from edge_training import phases, pipeline
from edge_training.site import load_site

RETRIES = 12
RETRY_DELAY = timedelta(seconds=1)

# A copy of the training scripts, which the harness changes between two rounds as a person would.
phases.SCRIPTS = Path(os.environ["CHAOS_SCRIPTS"])

dag = pipeline.build_dag(load_site(pipeline.SITES / "local.yaml"))
for task in dag.tasks:
    task.retries = RETRIES
    task.retry_delay = RETRY_DELAY
    task.retry_exponential_backoff = 0
