"""One of Airflow's processes, which first imports what its children will need: `python -m demo.preloaded COMMAND ARGUMENT ...`.

LocalExecutor's workers are forks of the scheduler, each task is a fork of a worker, triggers run in a fork of the triggerer, and each DAG
file is read in a fork of the DAG processor: what is imported here is there already in all of them. That saves each task that speaks with
Azure ML the import of that SDK, which takes longer than all the rest of such a task; and the remote log shows from its first line on.

The API server has no such children. It comes this way for the rarer garbage collections alone, as all of them do.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a DAG file imports; the SDKs are not among it.
PIPELINE = "edge_training.pipeline"
# None of them starts a thread or opens a connection when it is imported, which a fork would not survive. Those with an underscore the
# SDK imports only when it is first used, which each task would do anew.
MODULES = (
    "azureml.core",
    "azureml.core.authentication",
    "azureml.core.compute",
    "azureml._project.project",
    "azureml._run_impl.run_history_facade",
    "azureml._vendor.azure_cli_core.auth.identity",
    "azureml._vendor.azure_cli_core.auth.msal_authentication",
    "azureml._vendor.azure_cli_core.auth.util",
    "azureml._vendor.azure_cli_core.azclierror",
    "azureml._vendor.azure_cli_core.azureml_cloud",
    "azure.storage.blob",
    "paramiko",
    PIPELINE,
)
# Of these, tasks import what they need when they need it.
PACKAGES = ("edge_training.hooks", "edge_training.images", "edge_training.operators", "edge_training.residency")
CLOUD_SECONDS = 30.0
# After how many new objects Python looks for cycles among them, 700 by default. Each of these processes makes hundreds of thousands while
# it starts, nearly all of which stay: looking so often takes a fifth or more of the start's processor time.
NEW_OBJECTS = 50_000


def main() -> None:
    """Import, and become Airflow."""
    gc.set_threshold(NEW_OBJECTS)
    command = sys.argv[1]
    if command == "dag-processor":
        importlib.import_module(PIPELINE)
    elif command != "api-server":
        wait_for_cloud()
        preload()
    if command == "triggerer":
        prepare_answers()
    # What is there now stays, also in the forks: no collection needs to look at it again.
    gc.freeze()
    from airflow.__main__ import main as airflow

    sys.argv = ["airflow", *sys.argv[1:]]
    airflow()


def preload() -> None:
    """Import all that tasks and triggers use."""
    for name in MODULES:
        importlib.import_module(name)
    for name in PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(name).__path__, f"{name}."):
            importlib.import_module(module.name)
    importlib.import_module("edge_training.hooks.tls_trust").read_certificates()


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
