"""What a run definition asks for, read strictly: whatever this server would ignore, it refuses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from local_site.azure_ml.errors import BadRequestError
from local_site.azure_ml.execution.packages import PipEnvironment, read_packages
from local_site.azure_ml.web import field_of

# What the SDK names when nobody chose an image. A virtual machine runs without one.
DEFAULT_IMAGES = "mcr.microsoft.com/azureml/"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class UnsupportedError(Exception):
    """The definition asks for something that this server cannot do; the run fails with these words."""


@dataclass(frozen=True)
class Definition:
    """How to start a run.

    :param script: below the snapshot's root.
    :param arguments: as text.
    :param interpreter: the Python on the VM; it may begin with ``~``.
    :param packages: the environment that is made for the run, whose Python is taken instead, or ``None``.
    :param variables: more environment variables.
    :param max_seconds: how long it may take, or 0 for no limit.
    :param collects: whether ``outputs/`` and ``logs/`` are uploaded when it ends.
    """

    script: str
    arguments: tuple[str, ...]
    interpreter: str
    packages: PipEnvironment | None
    variables: dict[str, str]
    max_seconds: int
    collects: bool


def target_of(configuration: dict[str, Any]) -> str:
    """Return the compute that a run is for.

    :raises BadRequestError: when it names none.
    """
    return field_of(configuration, "target", str)


def read_definition(configuration: dict[str, Any]) -> Definition:
    """Read the parts of a run configuration that say how to start it.

    :raises UnsupportedError: when it asks for an environment, framework or command that this server cannot provide.
    """
    try:
        environment = field_of(configuration, "environment", dict)
        python = field_of(environment, "python", dict)
        _check_supported(configuration, environment)
        variables = field_of(environment, "environmentVariables", dict, {})
        variables |= field_of(configuration, "environmentVariables", dict, {})
        history = field_of(configuration, "history", dict, {})
        return Definition(
            script=field_of(configuration, "script", str),
            arguments=tuple(_text(item) for item in field_of(configuration, "arguments", list, [])),
            interpreter=field_of(python, "interpreterPath", str, "python"),
            packages=None if python.get("userManagedDependencies") else read_packages(python),
            variables={_variable(str(name)): str(value) for name, value in variables.items()},
            max_seconds=field_of(configuration, "maxRunDurationSeconds", int, 0),
            collects=field_of(history, "outputCollection", bool, default=True),
        )
    except BadRequestError as error:
        raise UnsupportedError(f"The run definition cannot be used: {error.message}") from error


def _check_supported(configuration: dict[str, Any], environment: dict[str, Any]) -> None:
    docker = {**(environment.get("docker") or {}), **(configuration.get("docker") or {})}
    if docker.get("useDocker") or docker.get("enabled"):
        raise UnsupportedError("Runs in Docker are not supported here; set use_docker to False.")
    image = docker.get("baseImage") or ""
    if docker.get("baseDockerfile") or docker.get("buildContext") or (image and not image.startswith(DEFAULT_IMAGES)):
        raise UnsupportedError(
            f"Docker images are not supported here ({image or 'a Dockerfile'}): a run gets a Python of the virtual machine."
        )
    if (environment.get("spark") or {}).get("packages") or environment.get("r"):
        raise UnsupportedError("Spark and R environments are not supported here.")
    if configuration.get("command"):
        raise UnsupportedError("A run with a command is not supported here; give a script and its arguments.")
    framework = configuration.get("framework") or "Python"
    if framework.lower() != "python" or (configuration.get("nodeCount") or 1) > 1:
        raise UnsupportedError(f"Only single-node Python runs are supported here, not {framework}.")
    if not configuration.get("script"):
        raise UnsupportedError("The run definition names no script.")


def _text(item: Any) -> str:
    if isinstance(item, bool):
        return str(item)
    if isinstance(item, (str, int, float)):
        return str(item)
    raise BadRequestError(f"An argument must be text or a number, not {type(item).__name__}.")


def _variable(name: str) -> str:
    if not VARIABLE.fullmatch(name):
        raise BadRequestError(f"{name!r} cannot be the name of an environment variable.")
    return name
