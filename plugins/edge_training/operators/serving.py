"""What the tasks share that make an image, try it out, put it into service, or go back to an earlier one."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training.deployment.probes import LARGEST_PROBE, NO_PROBE, PROBE_FILE, parse_probe
from edge_training.exceptions import ImageError

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from edge_training.images.compression import Compression
    from edge_training.images.serving import ServingLayer

CACHE_VARIABLE = "EDGE_TRAINING_CACHE"


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


def serving_lock(scripts_folder: str, named: str | None) -> Path:
    """Return the lock of the serving dependencies.

    :param scripts_folder: the folder of all training projects; ``serving`` is beside it.
    :param named: another lock, or ``None``.
    """
    return Path(named) if named else serving_folder(scripts_folder) / "requirements.lock"


def serving_folder(scripts_folder: str) -> Path:
    """Return the folder with what serves the models of all projects.

    :param scripts_folder: the folder of all training projects.
    """
    return Path(scripts_folder).parent / "serving"


def dependencies_layer(
    scripts_folder: str,
    lock: str | None,
    cache_dir: str | None,
    platform: str,
    compression: Compression,
    log: Logger,
) -> ServingLayer:
    """Return the layer of the serving dependencies, from the worker's cache or newly made.

    :param scripts_folder: the folder of all training projects.
    :param lock: another lock than the one beside them, or ``None``.
    :param cache_dir: folder for finished layers, or ``None`` for the environment's.
    :param platform: ``os/architecture`` of the image.
    :param compression: how the layer is packed.
    :param log: where to say it.
    :raises ConfigurationError: when the lock is missing.
    :raises ImageError: when a wheel cannot be downloaded or unpacked.
    """
    from edge_training.images.serving import serving_layer

    start = time.monotonic()
    cache = Path(cache_dir or os.environ.get(CACHE_VARIABLE) or "~/.cache/edge-training").expanduser()
    layer = serving_layer(serving_lock(scripts_folder, lock), cache, platform=platform, compression=compression)
    log.info(
        "Serving dependencies: %s, %s, ready in %.1f s",
        layer.created_by,
        megabytes(layer.descriptor.size),
        time.monotonic() - start,
    )
    return layer


def megabytes(size: int) -> str:
    """Return a size for people.

    :param size: in bytes.
    """
    return f"{size / 1e6:.2f} MB" if size >= 10_000 else f"{size} bytes"
