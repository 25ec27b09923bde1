"""The pipeline on one machine: starts the local site and a real Airflow, runs the DAG, and shows what came of it."""
