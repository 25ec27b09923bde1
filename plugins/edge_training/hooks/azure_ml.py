"""The Azure ML workspace as the pipeline sees it; the only module that imports the Azure ML SDK.

``azureml-core`` is the SDK that attaches a VM by address. Its support has ended, so everything that depends on it stands here: a second
implementation can stand beside this one. Importing it takes seconds, so it is imported by the first call and never when a DAG is parsed.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

import requests
from airflow.sdk import BaseHook

from edge_training.exceptions import ComputeError, ServiceError
from edge_training.hooks.azure_ml_errors import azure_ml_errors
from edge_training.hooks.azure_ml_records import attached_compute, last_numbers, model_version, run_error
from edge_training.hooks.connections import ConnectionSettings, read_connection
from edge_training.records import AttachedCompute, ModelVersion, RunStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

EXTRAS = ("tenant_id", "cloud", "subscription_id", "resource_group", "workspace")
ATTACH_POLL_SECONDS = 1.0
REQUEST_TIMEOUT_SECONDS = 30.0
RUN_LOG = "user_logs/std_log.txt"


class AzureMLHook(BaseHook):
    """Talks to one Azure ML workspace with a service principal.

    :param conn_id: Airflow connection of type ``azure_ml``: login = client id, password = client secret, and in its extra
        ``tenant_id``, ``subscription_id``, ``resource_group``, ``workspace``, and ``cloud`` when it is not AzureCloud.
    """

    conn_name_attr = "azure_ml_conn_id"
    default_conn_name = "azure_ml"
    conn_type = "azure_ml"
    hook_name = "Azure Machine Learning"

    def __init__(self, conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.conn_id = conn_id

    @cached_property
    def settings(self) -> ConnectionSettings:
        """Return the connection.

        :raises ConfigurationError: when it is missing or incomplete.
        """
        required = ("login", "password", "tenant_id", "subscription_id", "resource_group", "workspace")
        return read_connection(self.conn_id, (self.conn_type,), EXTRAS, required=required)

    @cached_property
    def workspace(self) -> Any:
        """Return the SDK's ``Workspace``.

        :raises ServiceError: when it does not exist or the credentials are refused.
        """
        settings = self.settings
        name = settings.text("workspace")
        with azure_ml_errors(f"open workspace '{name}'", self.conn_id):
            from azureml.core import Workspace
            from azureml.core.authentication import ServicePrincipalAuthentication

            login = ServicePrincipalAuthentication(
                settings.text("tenant_id"),
                settings.login,
                settings.password,
                cloud=settings.text("cloud") or "AzureCloud",
            )
            return Workspace(settings.text("subscription_id"), settings.text("resource_group"), name, auth=login)

    # Compute

    def find_compute(self, name: str) -> AttachedCompute | None:
        """Return a compute target, or ``None`` when the workspace has none of that name.

        :param name: the compute target's name.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        workspace = self.workspace
        with azure_ml_errors(f"look up compute target '{name}'", self.conn_id):
            from azureml.core.compute import ComputeTarget
            from azureml.exceptions import ComputeTargetException

            try:
                target = ComputeTarget(workspace, name)
            except ComputeTargetException as error:
                if "ComputeTargetNotFound" in str(error):
                    return None
                raise
            return attached_compute(target)

    def attach_vm(
        self,
        name: str,
        *,
        address: str | None,
        port: int,
        user: str,
        password: str | None = None,
        private_key_file: str | None = None,
        passphrase: str | None = None,
        resource_id: str | None = None,
        timeout_seconds: float = 300.0,
    ) -> AttachedCompute:
        """Attach a VM to the workspace and wait until Azure ML has accepted it.

        The key or password is sent to Azure and can be read there by whoever may list the workspace's keys: it must be of an account
        that can do nothing but train.

        :param name: the compute target's name.
        :param address: host name or address that Azure ML reaches the VM by; ``None`` with a resource id.
        :param port: SSH port.
        :param user: the training account.
        :param password: its password, or ``None`` with a key.
        :param private_key_file: path of its private key.
        :param passphrase: the key's passphrase.
        :param resource_id: the VM's ARM resource id, instead of an address.
        :param timeout_seconds: how long to wait.
        :raises ComputeError: when Azure ML could not reach or log in to the VM.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        workspace = self.workspace
        with azure_ml_errors(f"attach compute target '{name}'", self.conn_id):
            from azureml.core.compute import ComputeTarget, RemoteCompute

            configuration = RemoteCompute.attach_configuration(
                username=user,
                address=None if resource_id else address,
                resource_id=resource_id,
                ssh_port=port,
                password=password,
                private_key_file=private_key_file,
                private_key_passphrase=passphrase,
            )
            target = ComputeTarget.attach(workspace, name, configuration)
            deadline = time.monotonic() + timeout_seconds
            while target.provisioning_state not in {"Succeeded", "Failed", "Canceled"}:
                if time.monotonic() > deadline:
                    break
                time.sleep(ATTACH_POLL_SECONDS)
                target.refresh_state()
            attached = attached_compute(target)
        if attached.provisioning_state != "Succeeded":
            raise ComputeError(
                f"Azure ML did not attach compute target '{name}': it is {attached.provisioning_state} after at most "
                f"{timeout_seconds:.0f} s. {' '.join(attached.errors) or 'It gives no reason.'} Check that Azure ML reaches "
                f"{resource_id or f'{address}:{port}'} over SSH as user '{user}'."
            )
        return attached

    def detach(self, name: str) -> None:
        """Take a compute target out of the workspace; the VM itself is not touched.

        :param name: the compute target's name.
        :raises ServiceError: when Azure ML cannot be asked, or there is none of that name.
        """
        workspace = self.workspace
        with azure_ml_errors(f"detach compute target '{name}'", self.conn_id):
            from azureml.core.compute import ComputeTarget

            ComputeTarget(workspace, name).detach()

    # Runs

    def submit(
        self,
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
        """Submit a script as a run with an id of our choice. Sending it twice names one run.

        :param run_id: the run's id.
        :param experiment: the experiment's name; it is made when it does not exist.
        :param compute: the compute target's name.
        :param source_directory: the folder that is sent as the run's snapshot.
        :param script: the entry script, relative to that folder.
        :param arguments: its arguments; Azure ML stores them, so none is a secret.
        :param python: the interpreter on the VM.
        :param tags: lineage that stands on the run.
        :param maximum_seconds: after this Azure ML ends the run by itself.
        :raises ServiceError: when Azure ML refuses or cannot be asked.
        """
        workspace = self.workspace
        with azure_ml_errors(f"submit run '{run_id}' to compute target '{compute}'", self.conn_id):
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

    def find_run(self, run_id: str) -> RunStatus | None:
        """Return a run, or ``None`` when Azure ML has none of that id.

        :param run_id: the run's id.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        try:
            return self.get_run(run_id)
        except ServiceError as error:
            if error.status == requests.codes.not_found:
                return None
            raise

    def get_run(self, run_id: str) -> RunStatus:
        """Return what Azure ML answers for a run at this moment.

        :param run_id: the run's id.
        :raises ServiceError: when Azure ML cannot be asked, or has no such run.
        """
        run = self._run(run_id)
        with azure_ml_errors(f"get the state of run '{run_id}'", self.conn_id):
            details = run.get_details()
            code, message = run_error(details.get("error"))
            return RunStatus(
                run_id=run_id,
                state=str(details["status"]),
                portal_url=str(run.get_portal_url()),
                error_code=code,
                error_message=message,
                started=str(details.get("startTimeUtc") or ""),
                ended=str(details.get("endTimeUtc") or ""),
            )

    def read_log(self, run_id: str, offset: int, name: str = RUN_LOG) -> bytes:
        """Return what a run's log has grown by.

        :param run_id: the run's id.
        :param offset: how many bytes are known already.
        :param name: the log's name among the run's log files.
        :raises ServiceError: when the log cannot be read; a log that is not there yet is empty.
        """
        run = self._run(run_id)
        with azure_ml_errors(f"read log '{name}' of run '{run_id}'", self.conn_id):
            url = (run.get_details().get("logFiles") or {}).get(name)
            if url is None:
                return b""
            answer = requests.get(url, headers={"Range": f"bytes={offset}-"}, timeout=REQUEST_TIMEOUT_SECONDS)
            if answer.status_code in {requests.codes.not_found, requests.codes.requested_range_not_satisfiable}:
                return b""
            answer.raise_for_status()
            whole = answer.status_code == requests.codes.ok
            return answer.content[offset:] if whole else answer.content

    def metrics(self, run_id: str) -> dict[str, float]:
        """Return the last value of each numeric metric of a run.

        :param run_id: the run's id.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        run = self._run(run_id)
        with azure_ml_errors(f"read the metrics of run '{run_id}'", self.conn_id):
            return last_numbers(run.get_metrics())

    def artifacts(self, run_id: str) -> tuple[str, ...]:
        """Return the names of all files that Azure ML holds for a run, sorted.

        :param run_id: the run's id.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        run = self._run(run_id)
        with azure_ml_errors(f"list the files of run '{run_id}'", self.conn_id):
            return tuple(sorted(run.get_file_names()))

    def cancel(self, run_id: str) -> None:
        """Ask Azure ML to cancel a run.

        :param run_id: the run's id.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        run = self._run(run_id)
        with azure_ml_errors(f"cancel run '{run_id}'", self.conn_id):
            run.cancel()

    # Models

    def find_model(self, name: str, tags: Mapping[str, str]) -> ModelVersion | None:
        """Return the newest version of a model that carries all these tags, or ``None``.

        :param name: the model's name.
        :param tags: tags and their values.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        workspace = self.workspace
        with azure_ml_errors(f"look for a version of model '{name}'", self.conn_id):
            from azureml.core import Model

            found = Model.list(workspace, name=name, tags=[[key, value] for key, value in tags.items()])
            return max((model_version(model) for model in found), key=lambda one: one.version, default=None)

    def register_model(
        self, *, run_id: str, name: str, path: str, tags: Mapping[str, str], properties: Mapping[str, str]
    ) -> ModelVersion:
        """Register a file of a run as the next version of a model.

        :param run_id: the run's id.
        :param name: the model's name.
        :param path: the file among the run's artifacts, such as ``outputs/model.onnx``.
        :param tags: lineage that stands on the version.
        :param properties: likewise; these cannot be changed later.
        :raises ServiceError: when Azure ML refuses or cannot be asked.
        """
        run = self._run(run_id)
        with azure_ml_errors(f"register '{path}' of run '{run_id}' as a version of model '{name}'", self.conn_id):
            registered = run.register_model(
                model_name=name,
                model_path=path,
                tags=dict(tags),
                properties=dict(properties),
                model_framework="Onnx" if path.endswith(".onnx") else "Custom",
            )
            return model_version(registered)

    def download_artifact(self, run_id: str, name: str, target: Path) -> Path:
        """Download one file of a run.

        :param run_id: the run's id.
        :param name: the file among the run's artifacts.
        :param target: where it goes.
        :raises ServiceError: when it is not there or Azure ML cannot be asked.
        """
        run = self._run(run_id)
        with azure_ml_errors(f"download '{name}' of run '{run_id}'", self.conn_id):
            run.download_file(name, output_file_path=str(target))
        return target

    def download_model(self, name: str, version: int, target: Path) -> Path:
        """Download the file of a model version.

        :param name: the model's name.
        :param version: its version.
        :param target: folder that the file is put in; what is there of an earlier try is replaced.
        :raises ServiceError: when there is no such version or Azure ML cannot be asked.
        """
        workspace = self.workspace
        with azure_ml_errors(f"download model '{name}:{version}'", self.conn_id):
            from azureml.core import Model

            model = Model(workspace, name=name, version=version)
            return type(target)(model.download(target_dir=str(target), exist_ok=True))

    def _run(self, run_id: str) -> Any:
        workspace = self.workspace
        with azure_ml_errors(f"find run '{run_id}'", self.conn_id):
            from azureml.core import Run

            return Run.get(workspace, run_id)
