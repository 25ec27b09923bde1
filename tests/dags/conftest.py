"""Sets Airflow up before it is imported."""

import tests.airflow_harness  # noqa: F401 - its import does it
