"""One of Airflow's processes, which first imports what its children will need: `python -m demo.preloaded COMMAND ARGUMENT ...`.

LocalExecutor's workers are forks of the scheduler, each task is a fork of a worker, and triggers run in a fork of the triggerer: what is
imported here is there already in all of them. That saves each task that speaks with Azure ML the import of that SDK, which takes
longer than all the rest of such a task; and the remote log shows from its first line on.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

# None of them starts a thread or opens a connection when it is imported, which a fork would not survive.
MODULES = (
    "azureml.core",
    "azureml.core.authentication",
    "azureml.core.compute",
    "azure.storage.blob",
    "paramiko",
    "edge_training.pipeline",
)
CLOUD_SECONDS = 30.0


def main() -> None:
    """Import, and become Airflow."""
    wait_for_cloud()
    for name in MODULES:
        importlib.import_module(name)
    if "triggerer" in sys.argv:
        prepare_answers()
    from airflow.__main__ import main as airflow

    sys.argv = ["airflow", *sys.argv[1:]]
    airflow()


def wait_for_cloud() -> None:
    """Wait for the file that says where Azure is: the SDK reads it when it is imported, and the site may still be writing it."""
    file = Path(unquote(urlsplit(os.environ.get("ARM_CLOUD_METADATA_URL", "")).path or "/"))
    deadline = time.monotonic() + CLOUD_SECONDS
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def prepare_answers() -> None:
    """Build now what Airflow's triggerer builds when the first trigger asks for a connection, which would wait for it for seconds."""
    import asyncio

    import httpx
    from airflow.jobs import triggerer_job_runner

    prepared = triggerer_job_runner.in_process_api_server()

    async def ask() -> int:
        async with httpx.AsyncClient(transport=prepared.atransport, base_url="http://in-process.invalid") as client:
            return (await client.get("/")).status_code

    # The routes are made at the first question, whatever it is. No thread and no connection stays, which a fork would not survive.
    asyncio.run(ask())
    triggerer_job_runner.in_process_api_server = lambda: prepared


if __name__ == "__main__":
    main()
