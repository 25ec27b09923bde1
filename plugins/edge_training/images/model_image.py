"""The image that serves one model version under azureml-inference-server-http, as any Azure ML image does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.images.compose import ComposedImage, RunSettings, compose
from edge_training.images.layers import Layer, LayerFile, write_layer
from edge_training.images.model_file import check_model_file
from edge_training.images.serving import PREFIX, SITE_PACKAGES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edge_training.images.compose import BaseImage

APP_ROOT = "var/azureml-app"
MODEL_DIR = f"{APP_ROOT}/azureml-models"
ENTRY_SCRIPT = "score.py"
PORT = 5001
# Any number that is not root's; it owns nothing in the image.
USER = "65532:65532"
LABEL_PREFIX = "edge-training."

# What the server imports before it is healthy.
_IMPORTED_AT_START = (
    "azureml_inference_server_http.amlserver",
    "azureml_inference_server_http.amlserver_linux",
    "azureml_inference_server_http.server.create_app",
    "gunicorn.ctl.server",
    "gunicorn.glogging",
    "gunicorn.workers.sync",
    "onnxruntime",
)

# Only what no file of the image can be: the code layer is the repository's own, reviewed code.
_LEFT_OUT = frozenset({"__pycache__", ".git"})


@dataclass(frozen=True)
class ServedModel:
    """The model that an image serves.

    :param name: its name in Azure ML.
    :param version: its version there.
    :param file: the model file on this machine; its name is kept.
    :param lineage: where it comes from, as tags.
    """

    name: str
    version: int
    file: Path
    lineage: Mapping[str, str]

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels by which an image tells which model it serves and where that comes from."""
        lineage = {LABEL_PREFIX + name: value for name, value in self.lineage.items()}
        named = {f"{LABEL_PREFIX}model": self.name, f"{LABEL_PREFIX}model_version": str(self.version)}
        return {**lineage, **named}

    @property
    def annotations(self) -> dict[str, str]:
        """Return the annotations of an image's manifest: the labels, and what other tools look for."""
        annotations = {
            "org.opencontainers.image.title": self.name,
            "org.opencontainers.image.version": str(self.version),
            "org.opencontainers.image.description": f"Serves model {self.name} version {self.version}: POST /score",
        }
        if revision := self.lineage.get("code_digest"):
            annotations["org.opencontainers.image.revision"] = revision
        return {**annotations, **self.labels}


@dataclass(frozen=True)
class ModelImageBuilder:
    """Builds the image of one model version; an :class:`~edge_training.images.interfaces.Builder`.

    :param base: the base image, with Python.
    :param serving: the layer with the serving dependencies.
    :param code: path in the scoring code's folder → file; one of them is ``score.py``.
    :param model: the model.
    :param scratch: folder for the layers that are written; they are needed until the image is published.
    """

    base: BaseImage
    serving: Layer
    code: Mapping[str, Path]
    model: ServedModel
    scratch: Path

    def build(self) -> ComposedImage:
        """Return the image: base, serving dependencies, scoring code, and the model last.

        :raises ImageError: when a file is missing, or is not what it should be.
        """
        layers = (self.serving, self._code_layer(), self._model_layer())
        return compose(self.base, layers, self._settings())

    def _code_layer(self) -> Layer:
        if ENTRY_SCRIPT not in self.code:
            raise ImageError(
                f"The scoring code has no {ENTRY_SCRIPT}: found {', '.join(sorted(self.code)) or 'nothing'}."
            )
        files = [LayerFile.of_path(f"{APP_ROOT}/{path}", file) for path, file in self.code.items()]
        return write_layer(
            files, self.scratch / "code.tar", root=APP_ROOT, created_by="scoring code", compression="none"
        )

    def _model_layer(self) -> Layer:
        path = f"{MODEL_DIR}/{self.model.name}/{self.model.version}/{self.model.file.name}"
        created_by = f"model {self.model.name} version {self.model.version}"
        file = LayerFile.of_path(path, self.model.file)
        check_model_file(self.model.file)
        return write_layer(
            [file], self.scratch / "model.tar", root=MODEL_DIR, created_by=created_by, compression="none"
        )

    def _settings(self) -> RunSettings:
        return RunSettings(
            entrypoint=(
                "python3",
                "-m",
                "azureml_inference_server_http",
                "--entry_script",
                f"/{APP_ROOT}/{ENTRY_SCRIPT}",
                "--port",
                str(PORT),
            ),
            environment=_environment(),
            path_prefix=(f"/{PREFIX}/bin",),
            user=USER,
            working_directory=f"/{APP_ROOT}",
            port=PORT,
            labels=self.model.labels,
            annotations=self.model.annotations,
        )


def _environment() -> dict[str, str]:
    return {
        "AML_APP_INSIGHTS_ENABLED": "false",
        "AML_APP_ROOT": f"/{APP_ROOT}",
        "AZUREML_ENTRY_SCRIPT": f"/{APP_ROOT}/{ENTRY_SCRIPT}",
        "AZUREML_MODEL_DIR": f"/{MODEL_DIR}",
        # The user of the image has no home of its own.
        "HOME": "/tmp",  # noqa: S108 - a folder of the container, not of this machine
        # ONNX Runtime's official builds for Linux report to Microsoft unless this is set before it is imported.
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"/{SITE_PACKAGES}",
        "PYTHONUNBUFFERED": "1",
    }


def shared_image(base: BaseImage, serving: Layer) -> tuple[ComposedImage, str]:
    """Return the image of all that a site's model images have in common, and a tag for it.

    It serves nothing: its command imports what the others import at their start, and ends.

    :param base: the base image.
    :param serving: the layer with the serving dependencies.
    """
    settings = RunSettings(
        entrypoint=("python3", "-c", f"import {', '.join(_IMPORTED_AT_START)}"),
        environment=_environment(),
        path_prefix=(),
        user=USER,
        working_directory="/",
        port=PORT,
        annotations={"org.opencontainers.image.description": "What model images share: fetched ahead of them"},
    )
    return compose(base, (serving,), settings), f"serving-{serving.descriptor.digest[7:19]}"


def scoring_code(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of the scoring code.

    :param folder: the project's folder.
    :param names: files and folders in it, such as ``("score.py",)``.
    :raises ConfigurationError: when one does not exist, or leads out of the folder.
    """
    root = folder.resolve()
    found: dict[str, Path] = {}
    for name in names:
        start = root / name
        files = sorted(start.rglob("*")) if start.is_dir() else [start]
        for file in files:
            if file.is_dir() or not _LEFT_OUT.isdisjoint(file.parts):
                continue
            if not file.resolve().is_relative_to(root) or not file.is_file():
                raise ConfigurationError(
                    f"The scoring code '{name}' is not a file or folder inside '{root}': correct the path."
                )
            found[file.relative_to(root).as_posix()] = file
    return found
