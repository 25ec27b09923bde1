"""Measures how long the DAGs take to parse once Airflow itself is imported: `python -m demo.bench_parse`.

First those of the project, as the DAG processor reads them at its start; then those of many sites, as the DAG processor reads them again
and again, and as each task reads them, which wants only its own.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from demo.settings import PROJECT

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

HEAVY = ("azureml", "sklearn", "onnx", "onnxruntime", "numpy")
MANY = 50
ROUNDS = 5


def main() -> int:
    """Print the seconds and the heavy packages that parsing imported; return 1 when there is one, or an import error."""
    with tempfile.TemporaryDirectory(prefix="bench-parse-") as home:
        os.environ.update(AIRFLOW_HOME=home, AIRFLOW__CORE__LOAD_EXAMPLES="False")
        from airflow.sdk.definitions.context import _AIRFLOW_PARSING_CONTEXT_DAG_ID

        before = set(sys.modules)
        bag, seconds = parse()
        new = set(sys.modules) - before
        from edge_training import pipeline

        pipeline.SITES = make_sites(Path(home) / "sites")
        parse()
        everything = statistics.median(parse()[1] for _ in range(ROUNDS))
        os.environ[_AIRFLOW_PARSING_CONTEXT_DAG_ID] = f"edge_training_site_{MANY - 1}"
        one, _ = parse()
        own = statistics.median(parse()[1] for _ in range(ROUNDS))
    heavy = sorted(name for name in HEAVY if name in new)
    print(f"{platform.platform()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    print(
        f"the project's {len(bag.dags)} DAGs      {seconds:6.3f} s, {len(new)} modules imported, heavy ones: {heavy or 'none'}"
    )
    print(f"those of {MANY} sites          {everything:6.3f} s in the DAG processor, medians of {ROUNDS}")
    print(f"{len(one.dags)} of these, in a task    {own:6.3f} s ({everything / own:.0f} times less)")
    mistakes = {**bag.import_errors, **one.import_errors}
    for path, error in mistakes.items():
        print(f"{path}: {error}", file=sys.stderr)
    return 1 if heavy or mistakes or len(one.dags) != 1 else 0


def parse() -> tuple[DagBag, float]:
    """Parse the project's DAG files, and return what was found and how many seconds it took."""
    from airflow.dag_processing.dagbag import DagBag

    begin = time.perf_counter()
    bag = DagBag(str(PROJECT / "dags"))
    return bag, time.perf_counter() - begin


def make_sites(folder: Path) -> Path:
    """Write many site files that differ in their names only, and return their folder."""
    folder.mkdir()
    local = (PROJECT / "include/sites/local.yaml").read_text()
    for number in range(MANY):
        name = f"site_{number}"
        (folder / f"{name}.yaml").write_text(re.sub(r"^name: .*$", f"name: {name}", local, flags=re.MULTILINE))
    return folder


if __name__ == "__main__":
    sys.exit(main())
