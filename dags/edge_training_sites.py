"""One DAG per site file in ``include/sites``, and the janitor; what the DAG does is in ``edge_training.pipeline``.

The file is not called ``edge_training.py``: both ``dags/`` and ``plugins/`` are on Python's path, and it would hide the package.
Airflow leaves out files that lack the words "dag" and "airflow" (``[core] dag_discovery_safe_mode``): this sentence has both.
"""

from edge_training.pipeline import SITES, build_dag, build_janitor, build_retention, build_rollback
from edge_training.site import load_sites

# Mistakes are told by edge_training_site_mistakes.py: an error here would take away the DAGs of all sites.
sites, _ = load_sites(SITES)
for site in sites:
    for dag in (build_dag(site), build_rollback(site), build_retention(site)):
        globals()[dag.dag_id] = dag
janitor = build_janitor(sites)
