"""What the hook does with the Azure ML SDK, one function per call: a workspace in, a record out, the SDK's own errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests

from edge_training.hooks.azure_ml_records import attached_compute, listed_run, model_version, run_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edge_training.hooks.azure_ml_records import ListedRun
    from edge_training.hooks.connections import ConnectionSettings
    from edge_training.records import AttachedCompute, ModelVersion, RunStatus

LOG_TIMEOUT_SECONDS = 30.0


def open_workspace(settings: ConnectionSettings) -> Any:
    """Log in and return the SDK's ``Workspace``, with tokens of its own."""
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


def read_status(workspace: Any, run_id: str) -> RunStatus:
    """Return what Azure ML answers for a run at this moment."""
    run = get_run(workspace, run_id)
    return run_status(run, run.get_details())


def list_active(workspace: Any, experiment: str, tags: Mapping[str, str]) -> list[ListedRun]:
    """Return the runs of an experiment that have not ended; one request, and one more for each 500 runs."""
    from azureml._restclient.constants import RunStatus as States
    from azureml.core import Experiment, Run

    active = [*States.get_running_statuses(), *States.get_post_processing_statuses()]
    # The SDK puts the status into "(Status eq {status})" as it is, and has no other way to ask for more than one.
    any_active = " or Status eq ".join(active)
    runs = Run.list(Experiment(workspace, experiment), tags=dict(tags) or None, status=any_active)
    return [listed_run(run) for run in runs]


def experiment_names(workspace: Any) -> list[str]:
    """Return the names of all experiments."""
    from azureml.core import Experiment

    return [str(experiment.name) for experiment in Experiment.list(workspace)]


def read_log(workspace: Any, run_id: str, offset: int, name: str) -> bytes:
    """Return what a run's log has grown by; nothing when it is not there yet."""
    url = (get_run(workspace, run_id).get_details().get("logFiles") or {}).get(name)
    if url is None:
        return b""
    answer = requests.get(url, headers={"Range": f"bytes={offset}-"}, timeout=LOG_TIMEOUT_SECONDS)
    if answer.status_code in {requests.codes.not_found, requests.codes.requested_range_not_satisfiable}:
        return b""
    answer.raise_for_status()
    whole = answer.status_code == requests.codes.ok
    return answer.content[offset:] if whole else answer.content


def find_models(
    workspace: Any, name: str, tags: Mapping[str, str] | None = None, run_id: str | None = None
) -> list[ModelVersion]:
    """Return the versions of a model, newest first."""
    from azureml.core import Model

    wanted = [[key, value] for key, value in (tags or {}).items()]
    found = [model_version(model) for model in Model.list(workspace, name=name, tags=wanted or None, run_id=run_id)]
    return sorted(found, key=lambda one: one.version, reverse=True)


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


def download_model(workspace: Any, name: str, version: int, target: Path) -> str:
    """Download the file of a model version into a folder, and return where it is."""
    from azureml.core import Model

    return str(Model(workspace, name=name, version=version).download(target_dir=str(target), exist_ok=True))
