"""Versions of the small server with their runs and models in Azure ML, and what the task that tries them out must be told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.hooks.azure_ml_models import ModelTagsHook
from edge_training.operators.verification import VerifyImageOperator
from edge_training.records import ImageReference, ModelVersion
from tests.integration.deployment.support import REPOSITORY, probe, push_image

if TYPE_CHECKING:
    from pathlib import Path

    from edge_training.images.registry import RegistryClient

MODEL = "tiny"


@dataclass
class Made:
    """Makes versions when they are asked for.

    :param client: the registry.
    :param folder: for files; the working directory.
    :param looked: what :class:`VerifyImageOperator` must know to look for training data.
    """

    client: RegistryClient
    folder: Path
    looked: dict[str, Any]

    def version(self, **environment: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the image and the model of a new version; its recorded answers are those of factor 2."""
        from azureml.core import Experiment, Model

        workspace = ModelTagsHook().workspace
        run = Experiment(workspace, "tiny").start_logging(snapshot_directory=None)
        (self.folder / "model").write_text("tiny")
        model = Model.register(workspace, str(self.folder / "model"), MODEL, tags={"site": "test"})
        (self.folder / "probe.json").write_text(json.dumps({"version": 1, **probe(model.version)}))
        run.upload_file("outputs/probe.json", str(self.folder / "probe.json"))
        run.complete()
        digest = push_image(self.client, model.version, run_id=run.id, **environment)
        image = ImageReference(self.client.registry, REPOSITORY, digest, f"v{model.version}")
        version = ModelVersion(MODEL, model.version, f"{MODEL}:{model.version}", run.id, "model", "")
        return image.to_json(), version.to_json()

    def verify(self, image: Any, model: Any, **options: Any) -> VerifyImageOperator:
        """Return the task that tries an image out."""
        return VerifyImageOperator(task_id="verify", image=image, model=model, **self.looked, **options)
