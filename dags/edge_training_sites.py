"""One DAG per site file in ``include/sites``, and the janitor; what the DAG does is in ``edge_training.pipeline``.

The file is not called ``edge_training.py``: both ``dags/`` and ``plugins/`` are on Python's path, and it would hide the package.
Airflow leaves out files that lack the words "dag" and "airflow" (``[core] dag_discovery_safe_mode``): this sentence has both.
"""

from airflow.sdk import get_parsing_context

from edge_training.pipeline import SITES, builders
from edge_training.site import load_sites

# Mistakes are told by edge_training_site_mistakes.py: an error here would take away the DAGs of all sites.
sites, _ = load_sites(SITES)
# A task reads this file for its own DAG only; None is the DAG processor, which wants all.
wanted = get_parsing_context().dag_id
for dag_id, build in builders(sites).items():
    if wanted in {None, dag_id}:
        globals()[dag_id] = build()
