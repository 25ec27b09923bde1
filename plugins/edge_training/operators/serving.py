"""What the tasks share that try an image out, put it into service, or go back to an earlier one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training.deployment.probes import LARGEST_PROBE, NO_PROBE, PROBE_FILE, parse_probe
from edge_training.exceptions import ImageError

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


def registry_order(conn_id: str) -> dict[str, str]:
    """Return what a host must know to pull from a registry; it holds the login, so it goes to the host's program and nowhere else.

    :param conn_id: the Airflow connection to the registry.
    :raises ConfigurationError: when the connection is wrong.
    """
    from edge_training.hooks.container_registry import ContainerRegistryHook

    hook = ContainerRegistryHook(conn_id)
    settings = hook.settings()
    # The client knows the address without scheme, and that the CA's file exists.
    with hook.client() as client:
        address = client.registry
    ca_certificate = settings.text("ca_certificate")
    ca_pem = Path(ca_certificate).read_text(encoding="ascii") if ca_certificate else ""
    return {"address": address, "user": settings.login, "password": settings.password, "ca_pem": ca_pem}


def recorded_probe(azure_ml_conn_id: str, run_id: str, *, required: bool, log: Logger) -> dict[str, Any]:
    """Return the probe that a run left, and an empty one when it left none and none is required.

    :param azure_ml_conn_id: the Airflow connection of the workspace.
    :param run_id: the run that trained the model; ``""`` when it is not known.
    :param required: whether a model without a probe may not go on.
    :param log: where to say that there is none.
    :raises ImageError: when there is none although it is required, or it is damaged.
    :raises ServiceError: when Azure ML cannot be asked.
    """
    from edge_training.hooks.azure_ml import AzureMLHook

    hook, name = AzureMLHook(azure_ml_conn_id), f"outputs/{PROBE_FILE}"
    if run_id and name in hook.artifacts(run_id):
        with tempfile.TemporaryDirectory(prefix="edge-training-") as folder:
            file = hook.download_artifact(run_id, name, Path(folder) / PROBE_FILE)
            with file.open("rb") as stream:
                return parse_probe(stream.read(LARGEST_PROBE), f"run {run_id}")
    told = f"Run {run_id or '(unknown)'} left no {name}, so there is nothing to compare the image's answers with"
    if required:
        raise ImageError(f"{told}: let the training script save a probe, or set deployment.require_probe to false.")
    log.warning("%s; only its health is checked.", told)
    return NO_PROBE
