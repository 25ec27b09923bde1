"""What the hook does with the Azure ML SDK, one function per call: a workspace in, a record out, the SDK's own errors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from edge_training.hooks.azure_ml_records import attached_compute, model_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edge_training.hooks.connections import ConnectionSettings
    from edge_training.records import AttachedCompute, ModelVersion


def import_the_sdk() -> None:
    """Import what every call needs, so that a caller chooses when that is; doing it again costs nothing."""
    import azureml.core
    import azureml.core.authentication  # noqa: F401 - for those who come after

    # They tell about files that are rightly not there, in every task's log and as if something had failed.
    for chatty in ("azureml._vendor.azure_cli_core", "azureml._restclient.clientbase"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def open_workspace(settings: ConnectionSettings) -> Any:
    """Log in and return the SDK's ``Workspace``, with tokens of its own."""
    import_the_sdk()
    from azureml.core import Workspace
    from azureml.core.authentication import ServicePrincipalAuthentication

    login = ServicePrincipalAuthentication(
        settings.text("tenant_id"), settings.login, settings.password, cloud=settings.text("cloud") or "AzureCloud"
    )
    group, name = settings.text("resource_group"), settings.text("workspace")
    return Workspace(settings.text("subscription_id"), group, name, auth=login)


def get_run(workspace: Any, run_id: str) -> Any:
    """Return the SDK's ``Run``."""
    from azureml.core import Run

    return Run.get(workspace, run_id)


def find_compute(workspace: Any, name: str) -> AttachedCompute | None:
    """Return a compute target, or ``None``."""
    from azureml.core.compute import ComputeTarget
    from azureml.exceptions import ComputeTargetException

    try:
        return attached_compute(ComputeTarget(workspace, name))
    except ComputeTargetException as error:
        if "ComputeTargetNotFound" in str(error):
            return None
        raise


def attach_vm(workspace: Any, name: str, **configuration: Any) -> AttachedCompute:
    """Ask for a VM to be attached; the same again is the same target."""
    from azureml.core.compute import ComputeTarget, RemoteCompute

    return attached_compute(ComputeTarget.attach(workspace, name, RemoteCompute.attach_configuration(**configuration)))


def detach(workspace: Any, name: str) -> None:
    """Take a compute target out of the workspace."""
    from azureml.core.compute import ComputeTarget

    ComputeTarget(workspace, name).detach()


def submit(
    workspace: Any,
    *,
    run_id: str,
    experiment: str,
    compute: str,
    source_directory: Path,
    script: str,
    arguments: Sequence[str],
    python: str,
    tags: Mapping[str, str],
    maximum_seconds: int,
) -> None:
    """Submit a script as a run with an id of our choice."""
    from azureml.core import Environment, Experiment, RunConfiguration, ScriptRunConfig

    environment = Environment(name="edge-training")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = python
    run_config = RunConfiguration()
    run_config.target = compute
    run_config.environment = environment
    run_config.max_run_duration_seconds = maximum_seconds
    script_config = ScriptRunConfig(
        source_directory=str(source_directory), script=script, arguments=list(arguments), run_config=run_config
    )
    Experiment(workspace, experiment).submit(script_config, tags=dict(tags), run_id=run_id)


def active_states() -> list[str]:
    """Return Azure ML's words for the states of a run that has not ended."""
    from azureml._restclient.constants import RunStatus as States

    return [*States.get_running_statuses(), *States.get_post_processing_statuses()]


def read_metrics(workspace: Any, run_id: str) -> dict[str, Any]:
    """Return each metric of a run.

    The SDK's own ``Run.get_metrics`` answers that there is none when the service does not answer which there are.
    """
    client = get_run(workspace, run_id)._client.metrics  # noqa: SLF001 - see above
    found = {
        name: client.get_metric_for_run_v2(name, run_id=run_id) for name in client.list_metric_names_for_run_id(run_id)
    }
    return {name: value for name, value in found.items() if value is not None}


def find_models(
    workspace: Any, name: str, tags: Mapping[str, str] | None = None, run_id: str | None = None
) -> list[ModelVersion]:
    """Return the versions of a model, newest first.

    One request for each 255 versions: "expanded", as the SDK does by itself, it would ask twice more for the run of each of them.
    """
    from azureml.core import Model

    wanted = [[key, value] for key, value in (tags or {}).items()]
    listed = Model.list(workspace, name=name, tags=wanted or None, run_id=run_id, expand=False)
    return sorted((model_version(model) for model in listed), key=lambda one: one.version, reverse=True)


def register_model(
    workspace: Any, *, run_id: str, name: str, path: str, tags: Mapping[str, str], properties: Mapping[str, str]
) -> ModelVersion:
    """Register a file of a run as the next version of a model. The same again is another version."""
    registered = get_run(workspace, run_id).register_model(
        model_name=name,
        model_path=path,
        tags=dict(tags),
        properties=dict(properties),
        model_framework="Onnx" if path.endswith(".onnx") else "Custom",
    )
    return model_version(registered)


def delete_model(workspace: Any, *, name: str, version: int) -> bool:
    """Delete a version of a model, and tell whether it was there."""
    from azureml.core import Model

    found = [model for model in Model.list(workspace, name=name, expand=False) if model.version == version]
    for model in found:
        model.delete()
    return bool(found)


def download_model(workspace: Any, name: str, version: int, target: Path) -> str:
    """Download the file of a model version into a folder, and return where it is."""
    from azureml.core import Model

    return str(
        Model(workspace, name=name, version=version, expand=False).download(target_dir=str(target), exist_ok=True)
    )
