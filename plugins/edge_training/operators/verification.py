"""Looks through the pushed image for training data, and tries it out where it will run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.operators.layer_scan import LayerScan
from edge_training.operators.serving import recorded_probe, registry_order
from edge_training.records import BlobManifest, ComputeTarget, ImageReference, ImageVerification, ModelVersion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from edge_training.operators.layer_scan import Scanned
    from edge_training.records import JsonObject


class VerifyImageOperator(BaseOperator):
    """Looks for training data in an image's own layers, then starts it in a sandbox where it will run, and compares its answers.

    The layers are looked through on the training VM, with the gate's scanner and a permission of its own to read the data, which is
    removed at once; the base's layers and that of the locked packages are not. Only then does the host pull the image by digest; layers
    that it unpacked before are not fetched again. Nothing of it is left running, and nothing that serves is touched.

    :param image: the :class:`ImageReference` of ``build_and_push_image``.
    :param base: the image's base by digest, as ``resolve_base_image`` returned it.
    :param data: the :class:`BlobManifest` of ``verify_blob_data``.
    :param compute: the :class:`ComputeTarget` of ``ensure_compute_attached``, where the data can be read.
    :param scripts_folder: ``include/training_scripts``, with the scanner.
    :param policy: settings of the gate, as for the run.
    :param model: the :class:`ModelVersion` of ``register_model``; its run left the probe.
    :param require_probe: whether a model whose run left no recorded answers fails the task; else only health is checked then.
    :param timed_requests: how many requests the latency is measured with.
    :param start_seconds: how long the image may take to be healthy.
    :param python: an interpreter on the host.
    :param serving_host_conn_id: Airflow connection of the host.
    :param training_vm_conn_id: Airflow connection of the training VM.
    :param blob_conn_id: Airflow connection of the blob store.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param container_registry_conn_id: Airflow connection of the registry.
    :returns: an :class:`~edge_training.records.ImageVerification`.
    :raises ResidencyError: when the image holds training data; it was not started.
    :raises ComputeError: when the training VM cannot be reached, or could not scan.
    :raises ImageError: when the image is damaged or cannot be pulled, or its recorded answers are missing.
    :raises DeploymentError: when it does not start or answers differently, or the host cannot be reached or run it.
    """

    template_fields: Sequence[str] = ("image", "base", "data", "compute", "model", "serving_host_conn_id")
    ui_color = "#ede9fe"

    def __init__(
        self,
        *,
        image: Any,
        base: Any,
        data: Any,
        compute: Any,
        scripts_folder: str,
        model: Any,
        policy: Mapping[str, Any] | None = None,
        require_probe: bool = False,
        timed_requests: int = 50,
        start_seconds: float = 60.0,
        python: str = "python3",
        serving_host_conn_id: str = "serving_host",
        training_vm_conn_id: str = "training_vm",
        blob_conn_id: str = "stack_hub_blob",
        azure_ml_conn_id: str = "azure_ml",
        container_registry_conn_id: str = "container_registry",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image = image
        self.base = base
        self.data = data
        self.compute = compute
        self.scripts_folder = scripts_folder
        self.policy = dict(policy or {})
        self.model = model
        self.require_probe = require_probe
        self.timed_requests = timed_requests
        self.start_seconds = start_seconds
        self.python = python
        self.serving_host_conn_id = serving_host_conn_id
        self.training_vm_conn_id = training_vm_conn_id
        self.blob_conn_id = blob_conn_id
        self.azure_ml_conn_id = azure_ml_conn_id
        self.container_registry_conn_id = container_registry_conn_id

    def execute(self, context: Context) -> JsonObject:
        """Look through the image, try it out, and return what was found."""
        from edge_training.hooks.serving_host import ServingHostHook

        image, model = ImageReference.from_json(self.image), ModelVersion.from_json(self.model)
        probe = recorded_probe(self.azure_ml_conn_id, model.run_id, required=self.require_probe, log=self.log)
        scanned = self._scan(image, (context["ti"].dag_id, context["run_id"]))
        order = {
            "registry": registry_order(self.container_registry_conn_id),
            "repository": image.repository,
            "digest": image.digest,
            "probe": probe,
            "requests": self.timed_requests,
            "seconds": self.start_seconds,
        }
        with ServingHostHook(self.serving_host_conn_id, self.python) as host:
            found = host.order("verify", order, image.pinned)
            found |= {
                "host": host.label,
                "scanned_files": scanned.files,
                "scanned_bytes": scanned.bytes,
                "scan_seconds": scanned.seconds,
            }
        verified = ImageVerification(**{name: found[name] for name in ImageVerification.__dataclass_fields__})
        self._report(verified)
        return verified.to_json()

    def _scan(self, image: ImageReference, dag_run: tuple[str, str]) -> Scanned:
        scan = LayerScan(
            scripts_folder=Path(self.scripts_folder),
            python=ComputeTarget.from_json(self.compute).python,
            dag_run=dag_run,
            policy=self.policy,
            training_vm_conn_id=self.training_vm_conn_id,
            blob_conn_id=self.blob_conn_id,
            container_registry_conn_id=self.container_registry_conn_id,
        )
        return scan.look(image, self.base, BlobManifest.from_json(self.data), self.log)

    def _report(self, found: ImageVerification) -> None:
        self.log.info(
            "Image %s on %s in %s: %d of %d layers fetched and checked in %.1f s",
            found.reference,
            found.host,
            found.isolation,
            found.fetched_layers,
            found.layers,
            found.pull_seconds,
        )
        self.log.info(
            "Healthy after %.2f s, %d values of its answers as recorded at training; p50 %.1f ms, p95 %.1f ms, %.0f MB of memory",
            found.cold_start_seconds,
            found.compared,
            found.p50_seconds * 1000,
            found.p95_seconds * 1000,
            found.memory_bytes / 1e6,
        )
