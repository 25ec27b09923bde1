"""Registers the model of a run."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.airflow_state import is_dag_run_over
from edge_training.exceptions import EdgeTrainingError, ModelGateError, ResidencyError
from edge_training.hooks.azure_ml_versions import AzureMLVersionsHook
from edge_training.lineage import RECEIPT, model_lineage
from edge_training.links import ModelLink
from edge_training.operators.leftovers import settle_versions
from edge_training.records import BlobManifest, CodeManifest, ResidencyReceipt, RunResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from edge_training.hooks.azure_ml import AzureMLHook
    from edge_training.records import JsonObject


def metric_shortfalls(metrics: Mapping[str, float], minimum: Mapping[str, float]) -> list[str]:
    """Return what keeps a model from being registered, one sentence each; a metric that is missing falls short too.

    :param metrics: what the run reported.
    :param minimum: metric name → the least value.
    """
    short: list[str] = []
    for name, least in sorted(minimum.items()):
        value = metrics.get(name)
        if value is None:
            short.append(f"{name} was not reported, at least {least:g} is needed")
        elif not value >= least:  # written so that NaN falls short
            short.append(f"{name} is {value:g}, at least {least:g} is needed")
    return short


class RegisterModelOperator(BaseOperator):
    """Registers the model file of a run as one version, once per run, however often the task is tried.

    :param site: the site's name, for the lineage.
    :param model_name: the model's name in Azure ML.
    :param model_file: the file that the script left, such as ``model.onnx``.
    :param minimum_metrics: metric name → the least value with which the model is registered.
    :param data: :class:`~edge_training.records.BlobManifest` of ``verify_blob_data``.
    :param code: :class:`~edge_training.records.CodeManifest` of ``check_training_code``.
    :param result: :class:`~edge_training.records.RunResult` of ``poll_run``.
    :param receipt: :class:`~edge_training.records.ResidencyReceipt` of ``audit_egress``, whose digest is put on the version.
    :param repository: where the images of the model are: versions that earlier DAG runs left half-finished are settled before, see
        :func:`~edge_training.operators.leftovers.settle_versions`; ``""`` to leave them to the janitor.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param container_registry_conn_id: Airflow connection of the registry.
    :returns: a :class:`~edge_training.records.ModelVersion`.
    :raises ModelGateError: when a metric falls short; nothing is registered.
    :raises ResidencyError: when the model file is not the one that the receipt is for.
    :raises ServiceError: when Azure ML refuses or cannot be asked.
    """

    template_fields: Sequence[str] = ("model_name", "model_file", "data", "code", "result", "receipt")
    ui_color = "#e6f4ea"
    operator_extra_links = (ModelLink(),)

    def __init__(
        self,
        *,
        site: str,
        model_name: str,
        model_file: str,
        data: Any,
        code: Any,
        result: Any,
        receipt: Any = None,
        minimum_metrics: Mapping[str, float] | None = None,
        repository: str = "",
        azure_ml_conn_id: str = "azure_ml",
        container_registry_conn_id: str = "container_registry",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.model_name = model_name
        self.model_file = model_file
        self.data = data
        self.code = code
        self.result = result
        self.receipt = receipt
        self.minimum_metrics = dict(minimum_metrics or {})
        self.repository = repository
        self.azure_ml_conn_id = azure_ml_conn_id
        self.container_registry_conn_id = container_registry_conn_id

    def execute(self, context: Context) -> JsonObject:
        """Check the metrics, look for the version of an earlier try, register."""
        ti = context["ti"]
        result = RunResult.from_json(self.result)
        short = metric_shortfalls(result.metrics, self.minimum_metrics)
        if short:
            raise ModelGateError(
                f"The model of run {result.run_id} is not registered: {'; '.join(short)}. Look at the data and the run "
                f"({result.portal_url}), or change model.minimum_metrics of site '{self.site}'."
            )
        hook = AzureMLVersionsHook(self.azure_ml_conn_id)
        self._settle_earlier(hook)
        found = hook.model_of_run(self.model_name, result.run_id)
        if found is not None:
            self.log.info("Model %s of run %s is registered already.", found.model_id, result.run_id)
            return found.to_json()
        tags = model_lineage(
            site=self.site,
            data=BlobManifest.from_json(self.data),
            code=CodeManifest.from_json(self.code),
            dag_id=ti.dag_id,
            dag_run_id=ti.run_id,
            result=result,
        )
        path = f"outputs/{self.model_file}"
        sha256 = self._sha256(hook, result.run_id, path)
        properties = {"file": self.model_file, "sha256": sha256}
        tags |= self._receipt_tag(sha256)
        model = hook.register_model(
            run_id=result.run_id, name=self.model_name, path=path, tags=tags, properties=properties
        )
        self.log.info("Registered %s (SHA-256 %s).", model.model_id, model.sha256)
        for name, value in sorted(model.tags.items()):
            self.log.info("  %-24s %s", name, value)
        return model.to_json()

    def _receipt_tag(self, sha256: str) -> dict[str, str]:
        """Return the tag that names the receipt, if this is the model that the receipt is for."""
        if self.receipt is None:
            return {}
        receipt = ResidencyReceipt.from_json(self.receipt)
        if receipt.models.get(self.model_file) != sha256:
            raise ResidencyError(
                f"{self.model_file} of run {receipt.run_id} is not the one that receipt {receipt.digest} is for: it was changed in "
                "Azure ML after it was audited. Nothing is registered; find out who did that before you train again."
            )
        return {RECEIPT: receipt.digest}

    def _settle_earlier(self, hook: AzureMLVersionsHook) -> None:
        """Settle what earlier DAG runs left half-finished; when that fails, the janitor will, and this model is registered all the same."""
        from edge_training.hooks.container_registry import ContainerRegistryHook

        if not self.repository:
            return
        try:
            with ContainerRegistryHook(self.container_registry_conn_id).client() as registry:
                model = (self.model_name, self.repository)
                settle_versions(hook, registry, model, self.site, is_dag_run_over, self.log)
        except EdgeTrainingError as error:
            self.log.warning("Earlier versions of model '%s' were not settled: %s", self.model_name, error)

    @staticmethod
    def _sha256(hook: AzureMLHook, run_id: str, path: str) -> str:
        with tempfile.TemporaryDirectory(prefix="edge-training-") as folder:
            file = hook.download_artifact(run_id, path, Path(folder) / "model")
            with file.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
