"""Fills a state folder with many runs, for the measurements."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from local_site.azure_ml.backend import open_backend
from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.settings import make_settings
from local_site.azure_ml.web import container_of

if TYPE_CHECKING:
    from pathlib import Path

EXPERIMENT = "many"
RUNS = 10_000
VALUES = 5
METRICS = ("accuracy", "loss", "roc_auc")
LOG = "user_logs/std_log.txt"


def seed(state: Path, port: int, bundle: Path) -> None:
    """Store the runs, each with tags, three metrics of five values and a log, in one transaction.

    :param state: the folder of a server that was never started.
    """
    backend = open_backend(make_settings(state, port, bundle, None))
    experiment = backend.history.make_experiment(EXPERIMENT)["experiment_id"]
    now = utc_text()
    key = backend.blobs.new_key()
    backend.blobs.write(key, [b"a line of a log\n" * 100])
    numbers = range(RUNS)
    with backend.database.write() as connection:
        connection.executemany(
            "insert into runs (run_id, experiment_id, status, created, started, ended, root_run_id, run_type, tags)"
            " values (?, ?, 'Completed', ?, ?, ?, ?, 'azureml.scriptrun', ?)",
            (
                (f"run-{n}", experiment, now, now, now, f"run-{n}", json.dumps({"number": str(n), "site": "oslo"}))
                for n in numbers
            ),
        )
        connection.executemany(
            "insert into metrics values (?, ?, ?, '')",
            ((f"run-{n}", name, json.dumps({name: "Double"})) for n in numbers for name in METRICS),
        )
        connection.executemany(
            "insert into metric_values (run_id, name, metric_id, created, step, data) values (?, ?, ?, ?, ?, ?)",
            (
                (f"run-{n}", name, f"{n}-{name}-{step}", now, step, json.dumps({name: step / VALUES}))
                for n in numbers
                for name in METRICS
                for step in range(VALUES)
            ),
        )
        connection.executemany(
            "insert into artifacts values ('ExperimentRun', ?, ?, ?, ?)",
            ((container_of(f"run-{n}"), LOG, key, now) for n in numbers),
        )
