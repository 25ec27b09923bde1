"""Shows the mistakes in site files as an import error of this file, which has no DAG of its own.

Airflow takes away every DAG of a file that cannot be imported. So the mistakes of one site are told here, and the DAGs of the other
sites, which stand in the other file, go on. (A file must have the words "dag" and "airflow", or Airflow does not read it.)
"""

from edge_training.pipeline import SITES
from edge_training.site import check_sites

check_sites(SITES)
