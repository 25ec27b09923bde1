"""Registers the model of a run."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.exceptions import ModelGateError
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.lineage import RUN_ID, model_lineage
from edge_training.records import BlobManifest, CodeManifest, RunResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

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
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :returns: a :class:`~edge_training.records.ModelVersion`.
    :raises ModelGateError: when a metric falls short; nothing is registered.
    :raises ServiceError: when Azure ML refuses or cannot be asked.
    """

    template_fields: Sequence[str] = ("model_name", "model_file", "data", "code", "result")
    ui_color = "#e6f4ea"

    def __init__(
        self,
        *,
        site: str,
        model_name: str,
        model_file: str,
        data: Any,
        code: Any,
        result: Any,
        minimum_metrics: Mapping[str, float] | None = None,
        azure_ml_conn_id: str = "azure_ml",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.model_name = model_name
        self.model_file = model_file
        self.data = data
        self.code = code
        self.result = result
        self.minimum_metrics = dict(minimum_metrics or {})
        self.azure_ml_conn_id = azure_ml_conn_id

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
        hook = AzureMLHook(self.azure_ml_conn_id)
        found = hook.find_model(self.model_name, {RUN_ID: result.run_id})
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
        properties = {"file": self.model_file, "sha256": self._sha256(hook, result.run_id, path)}
        model = hook.register_model(
            run_id=result.run_id, name=self.model_name, path=path, tags=tags, properties=properties
        )
        self.log.info("Registered %s (SHA-256 %s).", model.model_id, model.sha256)
        for name, value in sorted(model.tags.items()):
            self.log.info("  %-24s %s", name, value)
        return model.to_json()

    @staticmethod
    def _sha256(hook: AzureMLHook, run_id: str, path: str) -> str:
        with tempfile.TemporaryDirectory(prefix="edge-training-") as folder:
            file = hook.download_artifact(run_id, path, Path(folder) / "model")
            with file.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
