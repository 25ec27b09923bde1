"""What goes where in a package, and what its environment asks for."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.errors import BadRequestError
from local_site.azure_ml.execution.packages import PipEnvironment, read_packages
from local_site.azure_ml.names import check_path
from local_site.azure_ml.web import field_of

if TYPE_CHECKING:
    from local_site.azure_ml.artifacts.state import Artifact
    from local_site.azure_ml.packages.state import Asset, Packages

APP = "var/azureml-app"
SITE_PACKAGES = "opt/serving/site-packages"
MODELS = f"{APP}/azureml-models"
PORT = 5001
# What the SDK names when nobody chose an image; the registry's own base image stands in for it.
DEFAULT_IMAGES = "mcr.microsoft.com/azureml/"


@dataclass(frozen=True)
class Recipe:
    """A package in the making.

    :param base: the base image that the environment names, or ``""`` for the registry's own.
    :param packages: the pip packages to install, or ``None`` when the base image has all that is needed.
    :param models: path in the image -> file.
    :param assets: the scoring script and its folder.
    :param variables: environment variables of the image.
    """

    base: str
    packages: PipEnvironment | None
    models: dict[str, Artifact]
    assets: list[Asset]
    variables: dict[str, str]

    @property
    def command(self) -> list[str]:
        """Return how the image answers: with Azure ML's own inference server, which the environment must bring."""
        script = posixpath.join("/", APP, self.variables.get("AZUREML_ENTRY_SCRIPT", "main.py"))
        return ["python3", "-m", "azureml_inference_server_http", "--entry_script", script, "--port", str(PORT)]


def read_recipe(request: dict[str, Any], packages: Packages) -> Recipe:
    """Read a package request.

    :raises BadRequestError: when it asks for what cannot be composed.
    """
    environment = field_of(request, "environment", dict, {})
    python = field_of(environment, "python", dict, {})
    docker = field_of(environment, "docker", dict, {})
    if docker.get("baseDockerfile") or docker.get("buildContext"):
        raise BadRequestError("Images are composed here, not built: a Dockerfile cannot be used, name a base image.")
    base = field_of(docker, "baseImage", str, "")
    if base and not base.startswith(DEFAULT_IMAGES):
        registry = field_of(field_of(docker, "baseImageRegistry", dict, {}), "address", str, "")
        base = f"{registry}/{base}" if registry else base
    else:
        base = ""
    managed = bool(python) and not python.get("userManagedDependencies")
    model_ids = field_of(request, "modelIds", list, [])
    folders = [packages.model_folder(model_id) for model_id in model_ids]
    models = {
        check_path(f"{MODELS}/{folder}/{path}", "model file"): artifact
        for folder, model_id in zip(folders, model_ids, strict=True)
        for path, artifact in packages.model_files(model_id)
    }
    return Recipe(
        base=base,
        packages=read_packages(python) if managed else None,
        models=models,
        assets=packages.assets(request),
        variables=_variables(environment, folders),
    )


def _variables(environment: dict[str, Any], folders: list[str]) -> dict[str, str]:
    chosen = field_of(environment, "environmentVariables", dict, {})
    folder = f"/{MODELS}/{folders[0]}" if len(folders) == 1 else f"/{MODELS}"
    return {
        "AML_APP_ROOT": f"/{APP}",
        "AZUREML_MODEL_DIR": folder,
        "PYTHONPATH": f"/{SITE_PACKAGES}:/{APP}",
        "PYTHONUNBUFFERED": "1",
        "HOME": "/tmp",  # noqa: S108  # a folder of the image, not of this machine
        **{str(name): str(value) for name, value in chosen.items()},
    }
