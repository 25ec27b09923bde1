"""Measures how long the DAGs take to parse once Airflow itself is imported: `python -m demo.bench_parse`."""

from __future__ import annotations

import os
import sys
import tempfile
import time

from demo.settings import PROJECT

HEAVY = ("azureml", "sklearn", "onnx", "onnxruntime", "numpy")


def main() -> int:
    """Print the seconds and the heavy packages that parsing imported; return 1 when there is one, or an import error."""
    with tempfile.TemporaryDirectory(prefix="bench-parse-") as home:
        os.environ.update(AIRFLOW_HOME=home, AIRFLOW__CORE__LOAD_EXAMPLES="False")
        from airflow.dag_processing.dagbag import DagBag
        from airflow.sdk import DAG

        before = set(sys.modules)
        begin = time.perf_counter()
        bag = DagBag(str(PROJECT / "dags"))
        seconds = time.perf_counter() - begin
    new = set(sys.modules) - before
    heavy = sorted(name for name in HEAVY if name in new)
    print(
        f"{len(bag.dags)} {DAG.__name__}s parsed in {seconds:.2f} s, {len(new)} modules imported, heavy ones: {heavy or 'none'}"
    )
    for path, error in bag.import_errors.items():
        print(f"{path}: {error}", file=sys.stderr)
    return 1 if heavy or bag.import_errors else 0


if __name__ == "__main__":
    sys.exit(main())
