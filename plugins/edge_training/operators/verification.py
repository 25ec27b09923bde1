"""Tries the pushed image out where it will run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.operators.serving import recorded_probe, registry_order
from edge_training.records import ImageReference, ImageVerification, ModelVersion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from edge_training.records import JsonObject


class VerifyImageOperator(BaseOperator):
    """Pulls an image by digest where it will run, starts it in a sandbox there, and compares its answers with the recorded ones.

    Layers that the host unpacked before are not fetched again. Nothing of it is left running, and nothing that serves is touched.

    :param image: the :class:`ImageReference` of ``build_and_push_image``.
    :param model: the :class:`ModelVersion` of ``register_model``; its run left the probe.
    :param require_probe: whether a model whose run left no recorded answers fails the task; else only health is checked then.
    :param timed_requests: how many requests the latency is measured with.
    :param start_seconds: how long the image may take to be healthy.
    :param python: an interpreter on the host.
    :param serving_host_conn_id: Airflow connection of the host.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param container_registry_conn_id: Airflow connection of the registry.
    :returns: an :class:`~edge_training.records.ImageVerification`.
    :raises ImageError: when the image is damaged or cannot be pulled, or its recorded answers are missing.
    :raises DeploymentError: when it does not start or answers differently, or the host cannot be reached or run it.
    """

    template_fields: Sequence[str] = ("image", "model", "serving_host_conn_id")
    ui_color = "#ede9fe"

    def __init__(
        self,
        *,
        image: Any,
        model: Any,
        require_probe: bool = False,
        timed_requests: int = 50,
        start_seconds: float = 60.0,
        python: str = "python3",
        serving_host_conn_id: str = "serving_host",
        azure_ml_conn_id: str = "azure_ml",
        container_registry_conn_id: str = "container_registry",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image = image
        self.model = model
        self.require_probe = require_probe
        self.timed_requests = timed_requests
        self.start_seconds = start_seconds
        self.python = python
        self.serving_host_conn_id = serving_host_conn_id
        self.azure_ml_conn_id = azure_ml_conn_id
        self.container_registry_conn_id = container_registry_conn_id

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - Airflow's signature
        """Try the image out, and return what was found."""
        from edge_training.hooks.serving_host import ServingHostHook

        image, model = ImageReference.from_json(self.image), ModelVersion.from_json(self.model)
        probe = recorded_probe(self.azure_ml_conn_id, model.run_id, required=self.require_probe, log=self.log)
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
            verified = ImageVerification(
                host=host.label,
                **{name: found[name] for name in ImageVerification.__dataclass_fields__ if name != "host"},
            )
        self._report(verified)
        return verified.to_json()

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
