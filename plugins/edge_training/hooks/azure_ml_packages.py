"""Azure ML's own way to make an image of a model: ``Model.package``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ImageError
from edge_training.hooks.azure_ml import AzureMLHook

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from pathlib import Path

_UNDER_WAY = frozenset({"NotStarted", "Running"})
_LOG_TAIL = 1500


@dataclass(frozen=True)
class PackageOrder:
    """What Azure ML is asked to put into an image.

    :param model: the model's name.
    :param version: its version.
    :param code: folder with the scoring code; all of it is sent to Azure ML.
    :param entry_script: the script in it.
    :param requirements: pip requirements of the image.
    :param python: the image's Python, such as ``"3.11"``.
    :param base: the base image, ``registry/repository@sha256:...``; the workspace must be able to pull it.
    :param variables: environment variables of the image.
    :param repository: the image's repository in the workspace's registry.
    :param tag: its tag.
    """

    model: str
    version: int
    code: Path
    entry_script: str
    requirements: tuple[str, ...]
    python: str
    base: str
    variables: Mapping[str, str]
    repository: str
    tag: str


class AzureMLPackagesHook(AzureMLHook):
    """The Azure ML hook, with packages."""

    def package_model(self, order: PackageOrder, maximum: timedelta, interval: timedelta) -> str:
        """Let Azure ML make an image, wait for it, and return its location, ``registry/repository:tag``.

        :param order: what is to be in it.
        :param maximum: how long to wait.
        :param interval: how often to ask.
        :raises ImageError: when Azure ML could not make it, or did not in time.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        what = f"package model '{order.model}:{order.version}'"
        package = self._call(what, lambda workspace: _begin(workspace, order))
        deadline = time.monotonic() + maximum.total_seconds()
        while package.state in _UNDER_WAY:
            if time.monotonic() > deadline:
                raise ImageError(
                    f"Azure ML has not made the image of model '{order.model}:{order.version}' within {maximum}: it is "
                    f"{package.state}. Look at the package in Azure ML Studio, or give it longer.",
                    retryable=True,
                )
            time.sleep(interval.total_seconds())
            self._call(what, lambda _: package.update_creation_state())
        if package.state != "Succeeded":
            raise ImageError(
                f"Azure ML could not make the image of model '{order.model}:{order.version}': it is {package.state}. "
                f"{_reason(package)}"
            )
        return str(package.location)


def _begin(workspace: Any, order: PackageOrder) -> Any:
    from azureml.core import Environment, Model
    from azureml.core.conda_dependencies import CondaDependencies
    from azureml.core.model import InferenceConfig

    dependencies = CondaDependencies()
    # The lock names what serves already, with its exact version.
    dependencies.remove_pip_package("azureml-defaults")
    dependencies.set_python_version(order.python)
    for requirement in order.requirements:
        dependencies.add_pip_package(requirement)
    environment = Environment(f"serving-{order.model}")
    environment.python.conda_dependencies = dependencies
    environment.docker.base_image = order.base
    environment.environment_variables = dict(order.variables)
    inference = InferenceConfig(
        entry_script=order.entry_script, source_directory=str(order.code), environment=environment
    )
    model = Model(workspace, name=order.model, version=order.version, expand=False)
    package = Model.package(workspace, [model], inference, image_name=order.repository, image_label=order.tag)
    package.update_creation_state()
    return package


def _reason(package: Any) -> str:
    error = package.error
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "It gives no reason: look at the package's log in Azure ML Studio.")[-_LOG_TAIL:]
