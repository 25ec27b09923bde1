"""Step 3 of the pattern, second half: the registered model becomes an image in the registry."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.records import JsonObject, ModelVersion

if TYPE_CHECKING:
    from airflow.sdk import Context

    from edge_training.images.compose import BaseImage, ComposedImage
    from edge_training.images.interfaces import Published
    from edge_training.images.layers import Layer
    from edge_training.images.registry import RegistryClient

CACHE_VARIABLE = "EDGE_TRAINING_CACHE"


class ResolveBaseImageOperator(BaseOperator):
    """Finds out which image exactly the base's name stands for now, so that a missing one is noticed before anything is trained.

    Returns ``registry/repository@sha256:...`` of the image for the platform.

    :param base: ``repository:tag`` or ``repository@sha256:...`` in the connection's registry.
    :param platform: ``os/architecture`` of the machines that will serve.
    :param container_registry_conn_id: the Airflow connection to the registry.
    :raises ImageError: when there is no such image, or none for the platform.
    :raises ServiceError: when the registry does not answer, or refuses the login.
    """

    template_fields = ("base", "platform", "container_registry_conn_id")
    ui_color = "#ede9fe"

    def __init__(
        self,
        *,
        base: str,
        platform: str = "linux/amd64",
        container_registry_conn_id: str = "container_registry",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base = base
        self.platform = platform
        self.container_registry_conn_id = container_registry_conn_id

    def execute(self, context: Context) -> str:  # noqa: ARG002 - Airflow's signature
        """Resolve the base and return it by digest."""
        from edge_training.hooks.container_registry import ContainerRegistryHook
        from edge_training.images.base import resolve_base

        with ContainerRegistryHook(self.container_registry_conn_id).client() as client:
            base = resolve_base(client, self.base, self.platform)
        self.log.info(
            "Base image %s for %s is %s: %d layers, %s",
            self.base,
            base.platform,
            base.reference,
            len(base.layers),
            _megabytes(sum(layer.size for layer in base.layers)),
        )
        return base.reference


class BuildAndPushImageOperator(BaseOperator):
    """Composes the image that serves a model version and pushes it; no Docker daemon and no build step is involved.

    The image is the base, the serving dependencies (one layer, kept in a cache on the worker until their lock changes), the
    scoring code, and the model. The same inputs give the same digest, so a retry finds its image already there. The lineage of the
    model version stands on it as labels and annotations. Returns an :class:`ImageReference`.

    :param model: the :class:`ModelVersion` of the task before.
    :param base: the base by digest, as :class:`ResolveBaseImageOperator` returned it.
    :param project: the training project, a folder with the scoring code in ``scripts_folder``.
    :param scripts_folder: the folder of all training projects.
    :param repository: where the image goes.
    :param scoring_files: the project's files and folders that the image gets; one is ``score.py``.
    :param tag: the image's tag; ``{version}`` and ``{name}`` stand for those of the model.
    :param serving_lock: requirements with hashes of the serving dependencies; by default
        ``serving/requirements.lock`` beside ``scripts_folder``.
    :param cache_dir: folder on the worker for finished layers; by default that of the environment variable
        ``EDGE_TRAINING_CACHE``, else ``~/.cache/edge-training``.
    :param azure_ml_conn_id: the Airflow connection to Azure ML, where the model's file is.
    :param container_registry_conn_id: the Airflow connection to the registry.
    :raises ConfigurationError: when a file of the project or the lock is missing, or the tag is not one.
    :raises ImageError: when the image cannot be composed, or the model's file is not the one that was registered.
    :raises ServiceError: when Azure ML or the registry refuses or does not answer.
    """

    template_fields = (
        "model",
        "base",
        "project",
        "scripts_folder",
        "repository",
        "tag",
        "serving_lock",
        "cache_dir",
        "azure_ml_conn_id",
        "container_registry_conn_id",
    )
    ui_color = "#ede9fe"

    def __init__(
        self,
        *,
        model: Any,
        base: Any,
        project: str,
        scripts_folder: str,
        repository: str,
        scoring_files: tuple[str, ...] = ("score.py",),
        tag: str = "v{version}",
        serving_lock: str | None = None,
        cache_dir: str | None = None,
        azure_ml_conn_id: str = "azure_ml",
        container_registry_conn_id: str = "container_registry",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.base = base
        self.project = project
        self.scripts_folder = scripts_folder
        self.repository = repository
        self.scoring_files = scoring_files
        self.tag = tag
        self.serving_lock = serving_lock
        self.cache_dir = cache_dir
        self.azure_ml_conn_id = azure_ml_conn_id
        self.container_registry_conn_id = container_registry_conn_id

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - Airflow's signature
        """Build the image, push it, and return its reference."""
        from edge_training.hooks.container_registry import ContainerRegistryHook
        from edge_training.images.base import resolve_base
        from edge_training.images.publish import RegistryPublisher

        start = time.monotonic()
        model = ModelVersion.from_json(self.model)
        tag = self._tag(model)
        with (
            tempfile.TemporaryDirectory(prefix="model-image-") as scratch,
            ContainerRegistryHook(self.container_registry_conn_id).client() as client,
        ):
            publisher = RegistryPublisher(client, self.repository)
            base = resolve_base(client, self.base, None)
            image = self._build(model, base, self._serving_layer(base), Path(scratch))
            self.log.info("Composed %s of %d layers", image.digest, len(image.base.layers) + len(image.layers))
            published = publisher.publish(image, tag)
            self._report(published, image, client)
        self.log.info(
            "Image %s, tag %s, %s, in %.1f s",
            published.reference.pinned,
            tag,
            _megabytes(image.size),
            time.monotonic() - start,
        )
        return published.reference.to_json()

    def _tag(self, model: ModelVersion) -> str:
        try:
            return self.tag.format(version=model.version, name=model.name)
        except (LookupError, ValueError):
            raise ConfigurationError(
                f"The tag '{self.tag}' cannot be filled in: known are {{version}} and {{name}}."
            ) from None

    def _serving_layer(self, base: BaseImage) -> Layer:
        from edge_training.images.serving import serving_layer

        start = time.monotonic()
        lock = Path(self.serving_lock or Path(self.scripts_folder).parent / "serving" / "requirements.lock")
        cache = Path(self.cache_dir or os.environ.get(CACHE_VARIABLE) or "~/.cache/edge-training").expanduser()
        layer = serving_layer(lock, cache, platform=base.platform)
        self.log.info(
            "Serving dependencies: %s, %s, ready in %.1f s",
            layer.created_by,
            _megabytes(layer.descriptor.size),
            time.monotonic() - start,
        )
        return layer

    def _build(self, model: ModelVersion, base: BaseImage, serving: Layer, scratch: Path) -> ComposedImage:
        from edge_training.images.model_image import ModelImageBuilder, ServedModel, scoring_code

        code = scoring_code(Path(self.scripts_folder) / self.project, tuple(self.scoring_files))
        file = self._download(model, scratch)
        served = ServedModel(model.name, model.version, file, {**model.tags, "run_id": model.run_id})
        return ModelImageBuilder(base, serving, code, served, scratch).build()

    def _download(self, model: ModelVersion, scratch: Path) -> Path:
        """Download the model's file and make sure that it is the one that was registered."""
        from edge_training.hooks.azure_ml import AzureMLHook

        folder = scratch / "model"
        folder.mkdir()
        file = AzureMLHook(self.azure_ml_conn_id).download_model(model.name, model.version, folder)
        if not file.is_file():
            raise ImageError(
                f"Model {model.model_id} is not one file but a folder: only models of one file can be served."
            )
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if model.sha256 and found != model.sha256:
            raise ImageError(
                f"Model {model.model_id} has SHA-256 {found} in Azure ML, but {model.sha256} was registered: "
                "it was changed there, and is not put into an image. Find out by whom before this is tried again."
            )
        return file

    def _report(self, published: Published, image: ComposedImage, client: RegistryClient) -> None:
        what = [f"base {index}" for index, _ in enumerate(image.base.layers, start=1)]
        what += [layer.created_by for layer in image.layers] + ["configuration"]
        for name, transfer in zip(what, published.transfers, strict=True):
            self.log.info(
                "  %-7s %10s in %.2f s  %s (%s)",
                transfer.way,
                _megabytes(transfer.descriptor.size),
                transfer.seconds,
                transfer.descriptor.digest[:19],
                name,
            )
        if published.moved_from:
            self.log.warning(
                "Tag %s of %s/%s pointed at %s before; that image is still there, by its digest.",
                published.reference.tag,
                client.registry,
                self.repository,
                published.moved_from,
            )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 10_000 else f"{size} bytes"
