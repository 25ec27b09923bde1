"""Step 3 of the pattern, second half: the registered model becomes an image in the registry."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.lineage import IMAGE, INCOMPLETE, RUN_ID, origin
from edge_training.links import ImageLink
from edge_training.operators.serving import dependencies_layer, megabytes, serving_folder, serving_lock
from edge_training.records import JsonObject, ModelVersion, ResidencyReceipt

if TYPE_CHECKING:
    from airflow.sdk import Context

    from edge_training.images.compose import BaseImage
    from edge_training.images.compression import Compression
    from edge_training.images.interfaces import Published
    from edge_training.images.model_image import ServedModel
    from edge_training.images.publish import RegistryPublisher
    from edge_training.images.referrers import Attachment
    from edge_training.images.registry import RegistryClient

Builder = Literal["compose", "azure_ml"]


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
            megabytes(sum(layer.size for layer in base.layers)),
        )
        return base.reference


class BuildAndPushImageOperator(BaseOperator):
    """Makes the image that serves a model version and pushes it; no Docker daemon and no build step is involved.

    With the builder ``compose`` the image is the base, the serving dependencies (one layer, kept in a cache on the worker until their lock
    changes), the scoring code, and the model. The same inputs give the same digest, so a retry finds its image already there. The lineage
    of the model version stands on it as labels and annotations, and a bill of materials of the serving dependencies and the run's
    residency receipt are attached to it. With ``azure_ml``, Azure ML packages the model (``Model.package``) into the workspace's
    registry, which the connection must be to; it gets the same lineage and attachments. Returns an :class:`ImageReference`.

    :param model: the :class:`ModelVersion` of the task before.
    :param base: the base by digest, as :class:`ResolveBaseImageOperator` returned it.
    :param project: the training project, a folder with the scoring code in ``scripts_folder``.
    :param scripts_folder: the folder of all training projects.
    :param repository: where the image goes.
    :param receipt: the :class:`ResidencyReceipt` of the run, or ``None``.
    :param builder: ``"compose"`` or ``"azure_ml"``.
    :param compression: how the layer of serving dependencies is packed: ``"gzip"``, ``"zstd"`` or ``"none"``.
    :param scoring_files: the project's files and folders that the image gets; a project without ``score.py`` gets ``serving/score.py``.
    :param tag: the image's tag; ``{version}`` and ``{name}`` stand for those of the model.
    :param serving_lock: requirements with hashes of the serving dependencies; by default
        ``serving/requirements.lock`` beside ``scripts_folder``.
    :param cache_dir: folder on the worker for finished layers; by default that of the environment variable
        ``EDGE_TRAINING_CACHE``, else ``~/.cache/edge-training``.
    :param package_maximum: how long Azure ML may take.
    :param package_interval: how often it is asked whether it is ready.
    :param azure_ml_conn_id: the Airflow connection to Azure ML, where the model's file is.
    :param blob_conn_id: the Airflow connection to the blob storage that keeps the receipts.
    :param container_registry_conn_id: the Airflow connection to the registry.
    :raises ConfigurationError: when a file of the project or the lock is missing, or the tag is not one.
    :raises ImageError: when the image cannot be composed, or the model's file is not the one that was registered.
    :raises ServiceError: when Azure ML or the registry refuses or does not answer.
    """

    template_fields = (
        "model",
        "base",
        "receipt",
        "project",
        "scripts_folder",
        "repository",
        "tag",
        "serving_lock",
        "cache_dir",
        "azure_ml_conn_id",
        "blob_conn_id",
        "container_registry_conn_id",
    )
    ui_color = "#ede9fe"
    operator_extra_links = (ImageLink(),)

    def __init__(
        self,
        *,
        model: Any,
        base: Any,
        project: str,
        scripts_folder: str,
        repository: str,
        receipt: Any = None,
        builder: Builder = "compose",
        compression: Compression = "gzip",
        scoring_files: tuple[str, ...] = ("score.py",),
        tag: str = "v{version}",
        serving_lock: str | None = None,
        cache_dir: str | None = None,
        package_maximum: timedelta = timedelta(hours=1),
        package_interval: timedelta = timedelta(seconds=5),
        azure_ml_conn_id: str = "azure_ml",
        blob_conn_id: str = "stack_hub_blob",
        container_registry_conn_id: str = "container_registry",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.base = base
        self.project = project
        self.scripts_folder = scripts_folder
        self.repository = repository
        self.receipt = receipt
        self.builder = builder
        self.compression = compression
        self.scoring_files = scoring_files
        self.tag = tag
        self.serving_lock = serving_lock
        self.cache_dir = cache_dir
        self.package_maximum = package_maximum
        self.package_interval = package_interval
        self.azure_ml_conn_id = azure_ml_conn_id
        self.blob_conn_id = blob_conn_id
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
            served = self._served(model, Path(scratch))
            if self.builder == "azure_ml":
                published = self._package(served, base, tag, client, publisher, Path(scratch))
            else:
                published = self._compose(served, base, tag, publisher, Path(scratch))
        self._note_on_version(model, published.reference.digest)
        self.log.info(
            "Image %s, tag %s, %s, in %.1f s",
            published.reference.pinned,
            tag,
            megabytes(published.reference.size),
            time.monotonic() - start,
        )
        return published.reference.to_json()

    def _note_on_version(self, model: ModelVersion, digest: str) -> None:
        """Write on the model's version which image it has, unless an earlier try did."""
        from edge_training.hooks.azure_ml_versions import AzureMLVersionsHook

        if model.tags.get(IMAGE) != digest or model.tags.get(INCOMPLETE):
            cleared = {INCOMPLETE: ""} if INCOMPLETE in model.tags else {}
            AzureMLVersionsHook(self.azure_ml_conn_id).tag_version(model, {IMAGE: digest, **cleared})

    def _tag(self, model: ModelVersion) -> str:
        try:
            return self.tag.format(version=model.version, name=model.name)
        except (LookupError, ValueError):
            raise ConfigurationError(
                f"The tag '{self.tag}' cannot be filled in: known are {{version}} and {{name}}."
            ) from None

    @property
    def _lock(self) -> Path:
        return serving_lock(self.scripts_folder, self.serving_lock)

    def _served(self, model: ModelVersion, scratch: Path) -> ServedModel:
        from edge_training.images.model_file import check_model_file
        from edge_training.images.model_image import ServedModel

        file = self._download(model, scratch)
        check_model_file(file)
        return ServedModel(model.name, model.version, file, {**origin(model.tags), RUN_ID: model.run_id})

    def _code(self) -> dict[str, Path]:
        from edge_training.images.model_image import ENTRY_SCRIPT, scoring_code

        project = Path(self.scripts_folder) / self.project
        if (project / ENTRY_SCRIPT).exists() or ENTRY_SCRIPT not in self.scoring_files:
            return scoring_code(project, tuple(self.scoring_files))
        self.log.info(
            "Project '%s' has no %s: its model is served by the one for any ONNX model.", self.project, ENTRY_SCRIPT
        )
        more = tuple(name for name in self.scoring_files if name != ENTRY_SCRIPT)
        default = scoring_code(serving_folder(self.scripts_folder), (ENTRY_SCRIPT,))
        return {**scoring_code(project, more), **default}

    def _compose(
        self, served: ServedModel, base: BaseImage, tag: str, publisher: RegistryPublisher, scratch: Path
    ) -> Published:
        from edge_training.images.model_image import ModelImageBuilder
        from edge_training.images.referrers import SBOM, Attachment
        from edge_training.images.sbom import bill_of_materials

        serving = dependencies_layer(
            self.scripts_folder, self.serving_lock, self.cache_dir, base.platform, self.compression, self.log
        )
        image = ModelImageBuilder(base, serving, self._code(), served, scratch).build()
        self.log.info("Composed %s of %d layers", image.digest, len(image.base.layers) + len(image.layers))
        bill = bill_of_materials(serving.packages, serving.descriptor.digest)
        attachments = (Attachment(SBOM, "serving.cdx.json", bill), *self._receipt())
        published = publisher.publish(image, tag, attachments)
        names = [f"base {index}" for index, _ in enumerate(image.base.layers, start=1)]
        self._report(published, [*names, *(layer.created_by for layer in image.layers), "configuration"])
        # Made of exactly the packages whose hashes stand in the lock: nobody has to look for training data in it.
        reference = replace(published.reference, dependencies=serving.descriptor.digest)
        return replace(published, reference=reference)

    def _package(
        self,
        served: ServedModel,
        base: BaseImage,
        tag: str,
        client: RegistryClient,
        publisher: RegistryPublisher,
        scratch: Path,
    ) -> Published:
        from edge_training.hooks.azure_ml_packages import AzureMLPackagesHook
        from edge_training.operators.packaging import Packaging

        packaging = Packaging(
            model=served,
            base=base,
            code=self._code(),
            lock=self._lock,
            repository=self.repository,
            tag=tag,
            scratch=scratch,
            maximum=self.package_maximum,
            interval=self.package_interval,
        )
        return packaging.publish(AzureMLPackagesHook(self.azure_ml_conn_id), client, publisher, self._receipt())

    def _receipt(self) -> tuple[Attachment, ...]:
        """Return the run's residency receipt, signed as it is stored."""
        if self.receipt is None:
            return ()
        from edge_training.hooks.receipt_store import ReceiptStore
        from edge_training.images.referrers import RECEIPT, Attachment

        receipt = ResidencyReceipt.from_json(self.receipt)
        content = ReceiptStore(receipt.container, self.blob_conn_id).receipt(receipt.name)
        if "sha256:" + hashlib.sha256(content).hexdigest() != receipt.digest:
            raise ImageError(
                f"Residency receipt '{receipt.name}' in container '{receipt.container}' is not the one that was signed for run "
                f"'{receipt.run_id}': it was changed. Find out by whom before this is tried again."
            )
        return (Attachment(RECEIPT, "residency-receipt.json", content),)

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

    def _report(self, published: Published, what: list[str]) -> None:
        for name, transfer in zip(what, published.transfers, strict=True):
            self.log.info(
                "  %-7s %10s in %.2f s  %s (%s)",
                transfer.way,
                megabytes(transfer.descriptor.size),
                transfer.seconds,
                transfer.descriptor.digest[:19],
                name,
            )
        if published.moved_from:
            self.log.warning(
                "Tag %s of %s/%s pointed at %s before; that image is still there, by its digest.",
                published.reference.tag,
                published.reference.registry,
                self.repository,
                published.moved_from,
            )
