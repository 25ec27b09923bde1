"""The pipeline's own operators, one after the other, against the local site: what a worker would do, without a scheduler."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from edge_training.operators.blob import VerifyBlobDataOperator
from edge_training.operators.code import CheckTrainingCodeOperator
from edge_training.operators.compute import EnsureComputeAttachedOperator
from edge_training.operators.experiment import SubmitExperimentOperator
from edge_training.operators.grant import GrantDataAccessOperator
from edge_training.operators.run import PollRunOperator
from edge_training.retries import TypedRetryPolicy
from tests.airflow_harness import airflow_connection, comms, run_task
from tests.integration.training.control import Control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import BaseOperator

    from edge_training.records import JsonObject
    from tests.airflow_harness import AirflowConnection, FakeComms, RunTask, TaskOutcome
    from tests.running_site import RunningSite

__all__ = ["airflow_connection", "comms", "run_task"]

SCRIPTS = Path(__file__).parents[3] / "include" / "training_scripts"


@pytest.fixture
def connections(local_site_env: Any, local_site: Any, airflow_connection: AirflowConnection) -> dict[str, Any]:
    """Give Airflow the site's connections; returns the site's settings. The SDK's own variables are in the environment."""
    env: dict[str, str] = local_site.env
    airflow_connection("stack_hub_blob", **blob_fields(env))
    airflow_connection(
        "training_vm",
        conn_type="ssh",
        host=env["LOCAL_SITE_VM_HOST"],
        port=int(env["LOCAL_SITE_VM_PORT"]),
        login=env["LOCAL_SITE_VM_USER"],
        extra={"host_key": env["LOCAL_SITE_VM_HOST_KEY"], "key_file": env["LOCAL_SITE_VM_KEY_FILE"]},
    )
    airflow_connection("azure_ml", **azure_ml_fields(env))
    return dict(env)


def azure_ml_fields(env: dict[str, str], **extra: str) -> dict[str, Any]:
    """Return the fields of a connection to the site's workspace.

    :param env: the site's settings.
    :param extra: extras to change.
    """
    return {
        "conn_type": "azure_ml",
        "login": env["LOCAL_SITE_CLIENT_ID"],
        "password": env["LOCAL_SITE_CLIENT_SECRET"],
        "extra": {
            "tenant_id": env["LOCAL_SITE_TENANT_ID"],
            "cloud": env["AZUREML_CURRENT_CLOUD"],
            "subscription_id": env["LOCAL_SITE_SUBSCRIPTION_ID"],
            "resource_group": env["LOCAL_SITE_RESOURCE_GROUP"],
            "workspace": env["LOCAL_SITE_WORKSPACE"],
            **extra,
        },
    }


def blob_fields(env: dict[str, str]) -> dict[str, Any]:
    """Return the fields of a connection to the site's blob storage.

    :param env: the site's settings.
    """
    return _fields(env, "wasb", "BLOB_ENDPOINT", "BLOB_ACCOUNT", "BLOB_KEY")


def registry_fields(env: dict[str, str]) -> dict[str, Any]:
    """Return the fields of a connection to the site's registry.

    :param env: the site's settings.
    """
    return _fields(env, "azure_container_registry", "REGISTRY", "REGISTRY_USER", "REGISTRY_PASSWORD")


def _fields(env: dict[str, str], kind: str, *settings: str) -> dict[str, Any]:
    host, login, password = (env[f"LOCAL_SITE_{name}"] for name in settings)
    extra = {"ca_certificate": env["LOCAL_SITE_CA"]}
    return {"conn_type": kind, "host": host, "login": login, "password": password, "extra": extra}


class Pipeline:
    """Runs the tasks of one DAG run up to where a test takes over.

    :param run_task: runs one try of a task.
    :param run_id: the DAG run's id.
    """

    def __init__(self, run_task: RunTask, run_id: str) -> None:
        self.run_task = run_task
        self.run_id = run_id
        self.fields: dict[str, Any] = {}

    def run(self, operator: BaseOperator, **options: Any) -> TaskOutcome:
        """Run one try of a task of this DAG run."""
        return self.run_task(operator, run_id=self.run_id, **options)

    def value(self, operator: BaseOperator) -> JsonObject:
        """Run a task that must succeed, and return its XCom."""
        outcome = self.run(operator)
        assert outcome.state == "success", outcome.error
        value: JsonObject = outcome.value
        return value

    def verify(self) -> JsonObject:
        """Verify the site's own data."""
        return self.value(
            VerifyBlobDataOperator(
                task_id="verify_blob_data",
                container="training-data",
                prefix="breast-cancer/",
                schema_blob="breast-cancer/schema.json",
            )
        )

    def ensure(self) -> JsonObject:
        """Attach the site's VM."""
        return self.value(
            EnsureComputeAttachedOperator(
                task_id="ensure_compute_attached", compute_name="edge-vm", python="~/training-env/bin/python"
            )
        )

    def submission(self, project: str, scripts_folder: Path, **options: Any) -> SubmitExperimentOperator:
        """Return the submitting task of a project, with everything before it done."""
        data, compute = self.verify(), self.ensure()
        code = CheckTrainingCodeOperator(
            task_id="check_training_code", project=project, scripts_folder=str(scripts_folder)
        )
        grant = GrantDataAccessOperator(task_id="grant_data_access", manifest=data, lifetime=timedelta(minutes=10))
        self.fields = {
            "site": "test",
            "experiment": "bad-input",
            "project": project,
            "scripts_folder": str(scripts_folder),
            "data": data,
            "code": self.value(code),
            "compute": compute,
            "maximum_duration": timedelta(minutes=5),
            **options,
        }
        return SubmitExperimentOperator(task_id="submit_experiment", grant=self.value(grant), **self.fields)

    def waiting(self, run: JsonObject, **options: Any) -> PollRunOperator:
        """Return the waiting task of a run that was submitted by :meth:`submission`; it waits itself."""
        fields: dict[str, Any] = {
            **self.fields,
            "task_id": "poll_run",
            "run": run,
            "model_file": "model.onnx",
            "poll_interval": timedelta(seconds=0.5),
            "deferrable": False,
            "retry_policy": TypedRetryPolicy(),
        }
        return PollRunOperator(**{**fields, **options})

    def poll(self, run: JsonObject, **options: Any) -> TaskOutcome:
        """Wait for a run in the task itself."""
        return self.run(self.waiting(run, **options))


@pytest.fixture
def pipeline(
    connections: dict[str, Any], run_task: RunTask, request: pytest.FixtureRequest, comms: FakeComms
) -> Pipeline:
    """Give a DAG run of its own."""
    return Pipeline(run_task, f"manual__{request.node.name}")


@pytest.fixture
def project(tmp_path: Path) -> Any:
    """Make a training project of one script: ``project("print('hello')")`` returns the scripts folder to use."""

    def make(script: str) -> Path:
        folder = tmp_path / "scripts"
        (folder / "sample").mkdir(parents=True)
        (folder / "sample" / "train.py").write_text(script)
        (folder / "edge_run").symlink_to(SCRIPTS / "edge_run")
        return folder

    return make


@pytest.fixture(scope="module")
def endpoints(local_site: RunningSite) -> Iterator[Control]:
    with requests.Session() as session:
        # Only the site's own certificate: reading all that the machine trusts takes longer than the request.
        session.trust_env, session.verify = False, local_site.env["LOCAL_SITE_CA"]
        yield Control(local_site.env["LOCAL_SITE_AZURE_ML_URL"], session)


@pytest.fixture
def control(endpoints: Control, connections: dict[str, Any], comms: FakeComms) -> Iterator[Control]:
    endpoints.clear()
    yield endpoints
    endpoints.clear()
