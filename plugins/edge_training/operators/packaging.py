"""The second way to make an image: Azure ML packages the model, and we put the lineage on what it made."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ImageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from pathlib import Path

    from edge_training.hooks.azure_ml_packages import AzureMLPackagesHook
    from edge_training.images.compose import BaseImage
    from edge_training.images.interfaces import Published
    from edge_training.images.model_image import ServedModel
    from edge_training.images.publish import RegistryPublisher
    from edge_training.images.referrers import Attachment
    from edge_training.images.registry import RegistryClient


@dataclass(frozen=True)
class Packaging:
    """What a packaged image is made of, and how long Azure ML may take.

    :param model: the model.
    :param base: the base image.
    :param code: path in the scoring code's folder → file.
    :param lock: requirements with hashes of the serving dependencies.
    :param repository: where the image goes.
    :param tag: its tag.
    :param scratch: a folder for what is sent.
    :param maximum: how long to wait.
    :param interval: how often to ask.
    """

    model: ServedModel
    base: BaseImage
    code: Mapping[str, Path]
    lock: Path
    repository: str
    tag: str
    scratch: Path
    maximum: timedelta
    interval: timedelta

    def publish(
        self,
        hook: AzureMLPackagesHook,
        client: RegistryClient,
        publisher: RegistryPublisher,
        attachments: tuple[Attachment, ...] = (),
    ) -> Published:
        """Let Azure ML make the image unless an earlier try has, and let its tag point at it with our lineage.

        :param hook: Azure ML.
        :param client: the registry of the workspace.
        :param publisher: publishes to the repository.
        :param attachments: documents that are attached to the image, besides the bill of materials of what the lock names.
        :raises ConfigurationError: when Azure ML pushes to another registry than the connection's, or the lock is missing.
        :raises ImageError: when Azure ML cannot make it.
        :raises ServiceError: when Azure ML or the registry does not answer as it should.
        """
        from edge_training.images.base import resolve_base
        from edge_training.images.compose import BASE_DIGEST, BASE_NAME
        from edge_training.images.interfaces import Published
        from edge_training.images.model_image import ENTRY_SCRIPT
        from edge_training.images.packaged import INPUTS, find_packaged, pinned_requirements, with_lineage
        from edge_training.images.referrers import SBOM, Attachment
        from edge_training.images.sbom import bill_of_materials, pinned_packages

        if ENTRY_SCRIPT not in self.code:
            raise ImageError(f"The scoring code has no {ENTRY_SCRIPT}: add it to the training project.")
        requirements = pinned_requirements(self.lock)

        def with_bill(digest: str) -> tuple[Attachment, ...]:
            bill = bill_of_materials(pinned_packages(requirements), digest)
            return Attachment(SBOM, "serving.cdx.json", bill), *attachments

        inputs = self._inputs(requirements)
        found = find_packaged(client, self.repository, self.tag, inputs)
        if found:
            reference, subject = found
            publisher.attach(subject, with_bill(subject.digest))
            return Published(reference, ())
        location = hook.package_model(self._order(requirements), self.maximum, self.interval)
        labels = {**self.model.labels, INPUTS: inputs}
        base = {BASE_NAME: self.base.reference, BASE_DIGEST: self.base.digest}
        image = with_lineage(resolve_base(client, location, None), labels, {**self.model.annotations, **labels, **base})
        return publisher.publish(image, self.tag, with_bill(image.digest))

    def _inputs(self, requirements: tuple[str, ...]) -> str:
        from edge_training.images.packaged import inputs_digest

        code = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in self.code.items()}
        model = [self.model.name, self.model.version, dict(self.model.lineage)]
        return inputs_digest(model=model, base=self.base.digest, code=code, requirements=requirements)

    def _order(self, requirements: tuple[str, ...]) -> Any:
        from edge_training.hooks.azure_ml_packages import PackageOrder
        from edge_training.images.model_image import ENTRY_SCRIPT
        from edge_training.images.serving import PYTHON

        # Azure ML is sent the whole folder: it gets exactly the scoring code.
        folder = self.scratch / "scoring"
        for path, file in self.code.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / path)
        return PackageOrder(
            model=self.model.name,
            version=self.model.version,
            code=folder,
            entry_script=ENTRY_SCRIPT,
            requirements=requirements,
            python=PYTHON,
            base=self.base.reference,
            variables={"AML_APP_INSIGHTS_ENABLED": "false", "ORT_DISABLE_TELEMETRY": "1"},
            repository=self.repository,
            tag=self.tag,
        )
