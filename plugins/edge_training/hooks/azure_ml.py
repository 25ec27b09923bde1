"""The Azure ML workspace as the pipeline sees it: one hook, whatever is behind it.

``azureml-core`` is the SDK that attaches a VM by address. Its support has ended, so everything that depends on it stands in the modules
``azure_ml*.py`` of this folder: a second implementation can stand beside them. Importing it takes seconds, so it is imported by the first
call and never when a DAG is parsed.
"""

from __future__ import annotations

import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from edge_training.exceptions import ComputeError, ServiceError
from edge_training.hooks import azure_ml_calls as calls
from edge_training.hooks.azure_ml_records import last_numbers
from edge_training.hooks.azure_ml_workspace import EXTRAS, AzureMLWorkspaceHook
from edge_training.hooks.retrying import NO_PATIENCE
from edge_training.lineage import RUN_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edge_training.hooks.azure_ml_history import RunHistory
    from edge_training.hooks.azure_ml_records import ListedRun
    from edge_training.records import AttachedCompute, ModelVersion, RunStatus

__all__ = ["EXTRAS", "AzureMLHook"]

ATTACH_POLL_SECONDS = 1.0
RUN_LOG = "user_logs/std_log.txt"


class AzureMLHook(AzureMLWorkspaceHook):
    """Talks to one Azure ML workspace with a service principal.

    Every call is tried again when its error may pass (no answer, 408, 429, 5xx), logs in again when its access token has run out, and
    raises a :class:`~edge_training.exceptions.ServiceError` otherwise.

    :param conn_id: Airflow connection of type ``azure_ml``: login = client id, password = client secret, and in its extra
        ``tenant_id``, ``subscription_id``, ``resource_group``, ``workspace``, and ``cloud`` when it is not AzureCloud.
    :param patience: how long calls are tried again; a trigger, which looks again anyway, wants little of it.
    """

    # Compute

    def find_compute(self, name: str) -> AttachedCompute | None:
        """Return a compute target, or ``None`` when the workspace has none of that name.

        :param name: the compute target's name.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        return self._call(f"look up compute target '{name}'", lambda workspace: calls.find_compute(workspace, name))

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
        configuration = {
            "username": user,
            "address": None if resource_id else address,
            "resource_id": resource_id,
            "ssh_port": port,
            "password": password,
            "private_key_file": private_key_file,
            "private_key_passphrase": passphrase,
        }
        deadline = time.monotonic() + timeout_seconds
        attached = self._call(
            f"attach compute target '{name}'", lambda workspace: calls.attach_vm(workspace, name, **configuration)
        )
        while attached.provisioning_state not in {"Succeeded", "Failed", "Canceled"} and time.monotonic() < deadline:
            time.sleep(ATTACH_POLL_SECONDS)
            attached = self.find_compute(name) or attached
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
        self._call(f"detach compute target '{name}'", lambda workspace: calls.detach(workspace, name))

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
        submission = partial(
            calls.submit,
            run_id=run_id,
            experiment=experiment,
            compute=compute,
            source_directory=source_directory,
            script=script,
            arguments=arguments,
            python=python,
            tags=tags,
            maximum_seconds=maximum_seconds,
        )
        self._call(f"submit run '{run_id}' to compute target '{compute}'", submission)

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
        return self.look_up(run_id).status

    def look_up(self, run_id: str) -> ListedRun:
        """Return a run as :meth:`get_run` does, with its tags and compute target.

        :param run_id: the run's id.
        :raises ServiceError: when Azure ML cannot be asked, or has no such run.
        """
        return self._read(f"get the state of run '{run_id}'", lambda history: history.run(run_id))

    def tag_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Put tags on a run; the same again is the same.

        :param run_id: the run's id.
        :param tags: the tags.
        :raises ServiceError: when Azure ML refuses or cannot be asked.
        """
        self._call(f"tag run '{run_id}'", lambda workspace: calls.get_run(workspace, run_id).set_tags(dict(tags)))

    def active_runs(self, experiment: str) -> dict[str, ListedRun]:
        """Return the runs of an experiment that have not ended, by id: one request for up to 500 of them.

        A run that is missing has ended, or was never submitted: :meth:`runs_by_id` tells which.

        :param experiment: the experiment's name.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        return {run.status.run_id: run for run in self.runs_tagged({}, experiment)}

    def runs_by_id(self, experiment: str, run_ids: Iterable[str]) -> dict[str, ListedRun]:
        """Return those of these runs that belong to an experiment, by id: one request for up to 40 of them.

        :param experiment: the experiment's name.
        :param run_ids: the runs' ids.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        wanted = list(run_ids)
        found = self._read(
            f"look for {len(wanted)} runs of experiment '{experiment}'",
            lambda history: history.by_id(experiment, wanted),
        )
        return {run.status.run_id: run for run in found}

    def runs_tagged(self, tags: Mapping[str, str], experiment: str | None = None) -> tuple[ListedRun, ...]:
        """Return the runs that have not ended and carry all these tags.

        :param tags: tags and their values; none for all runs.
        :param experiment: the experiment's name; ``None`` for all, with a request for each.
        :raises ServiceError: when Azure ML cannot be asked.
        """

        def look(history: RunHistory) -> tuple[ListedRun, ...]:
            states = calls.active_states()
            names = history.experiments() if experiment is None else [experiment]
            return tuple(run for name in names for run in history.active(name, states, tags))

        where = "all experiments" if experiment is None else f"experiment '{experiment}'"
        return self._read(f"list the active runs of {where}", look)

    def read_log(self, run_id: str, offset: int, name: str = RUN_LOG) -> bytes:
        """Return what a run's log has grown by.

        :param run_id: the run's id.
        :param offset: how many bytes are known already.
        :param name: the log's name among the run's log files.
        :raises ServiceError: when the log cannot be read; a log that is not there yet is empty.
        """
        return self._read(
            f"read log '{name}' of run '{run_id}'",
            lambda history: history.log(run_id, offset, name),
            patience=NO_PATIENCE,  # whoever follows a log asks again anyway, and meanwhile wants to know the run's state
        )

    def metrics(self, run_id: str) -> dict[str, float]:
        """Return the last value of each numeric metric of a run.

        :param run_id: the run's id.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        return self._call(
            f"read the metrics of run '{run_id}'",
            lambda workspace: last_numbers(calls.read_metrics(workspace, run_id)),
        )

    def artifacts(self, run_id: str) -> tuple[str, ...]:
        """Return the names of all files that Azure ML holds for a run, sorted.

        :param run_id: the run's id.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        return self._call(
            f"list the files of run '{run_id}'",
            lambda workspace: tuple(sorted(calls.get_run(workspace, run_id).get_file_names())),
        )

    def cancel(self, run_id: str) -> None:
        """Ask Azure ML to cancel a run.

        :param run_id: the run's id.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        self._call(f"cancel run '{run_id}'", lambda workspace: calls.get_run(workspace, run_id).cancel())

    # Models

    def model_of_run(self, name: str, run_id: str) -> ModelVersion | None:
        """Return the version of a model that a run has, or ``None``.

        Two tries of a task may be at work at once: Airflow starts the next one when it has lost sight of one that goes on. Each may then
        have looked before the other registered. The first version counts; a later one is deleted, whichever try sees it.

        :param name: the model's name.
        :param run_id: the run's id.
        :raises ServiceError: when Azure ML refuses or cannot be asked.
        """
        found = self._call(
            f"look for the version of model '{name}' that run '{run_id}' has",
            lambda workspace: calls.find_models(workspace, name, {RUN_ID: run_id}),
        )
        if not found:
            return None
        *later, first = found
        for version in later:
            self.log.warning(
                "Model %s is of run %s, which has %s already: two tries of the task registered at once. Deleting it.",
                version.model_id,
                run_id,
                first.model_id,
            )
            try:
                self._call(
                    f"delete model '{version.model_id}'",
                    partial(calls.delete_model, name=name, version=version.version),
                )
            except ServiceError as error:
                # The other try sees both versions, too.
                if error.status != requests.codes.not_found:
                    raise
        return first

    def register_model(
        self, *, run_id: str, name: str, path: str, tags: Mapping[str, str], properties: Mapping[str, str]
    ) -> ModelVersion:
        """Register a file of a run as the next version of a model.

        Registering twice would make two versions. When an answer was lost, the version is looked for before it is sent again; and when it
        was registered, whether another try has done the same meanwhile.

        :param run_id: the run's id.
        :param name: the model's name.
        :param path: the file among the run's artifacts, such as ``outputs/model.onnx``.
        :param tags: lineage that stands on the version.
        :param properties: likewise; these cannot be changed later.
        :raises ServiceError: when Azure ML refuses or cannot be asked.
        """
        sent = False

        def register(workspace: Any) -> ModelVersion:
            nonlocal sent
            if sent:
                made = calls.find_models(workspace, name, run_id=run_id)
                if made:
                    self.log.info("Model %s was registered by the request whose answer was lost.", made[-1].model_id)
                    return made[-1]
            sent = True
            return calls.register_model(
                workspace, run_id=run_id, name=name, path=path, tags=tags, properties=properties
            )

        registered = self._call(f"register '{path}' of run '{run_id}' as a version of model '{name}'", register)
        return self.model_of_run(name, run_id) or registered

    def download_artifact(self, run_id: str, name: str, target: Path) -> Path:
        """Download one file of a run.

        :param run_id: the run's id.
        :param name: the file among the run's artifacts.
        :param target: where it goes.
        :raises ServiceError: when it is not there or Azure ML cannot be asked.
        """
        self._call(
            f"download '{name}' of run '{run_id}'",
            lambda workspace: calls.get_run(workspace, run_id).download_file(name, output_file_path=str(target)),
        )
        return target

    def read_json(self, run_id: str, name: str) -> dict[str, Any]:
        """Return a small file of a run that holds a JSON object; what is not one is an empty one.

        :param run_id: the run's id.
        :param name: the file among the run's artifacts.
        :raises ServiceError: when it is not there or Azure ML cannot be asked.
        """
        with tempfile.TemporaryDirectory(prefix="edge-training-") as folder:
            file = self.download_artifact(run_id, name, Path(folder) / "file.json")
            try:
                content = json.loads(file.read_bytes())
            except ValueError:
                return {}
        return content if isinstance(content, dict) else {}

    def download_model(self, name: str, version: int, target: Path) -> Path:
        """Download the file of a model version.

        :param name: the model's name.
        :param version: its version.
        :param target: folder that the file is put in; what is there of an earlier try is replaced.
        :raises ServiceError: when there is no such version or Azure ML cannot be asked.
        """
        path = self._call(
            f"download model '{name}:{version}'",
            lambda workspace: calls.download_model(workspace, name, version, target),
        )
        return type(target)(path)
