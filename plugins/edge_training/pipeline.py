"""Makes the DAG of a site: which task does what, in which order, with which of the site's settings.

Imports no SDK and reads no service, so that parsing stays fast; the operators import what they need when they run.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG

from edge_training.operators.blob import VerifyBlobDataOperator
from edge_training.operators.code import CheckTrainingCodeOperator
from edge_training.operators.compute import EnsureComputeAttachedOperator
from edge_training.operators.experiment import SubmitExperimentOperator
from edge_training.operators.grant import GrantDataAccessOperator, RevokeDataAccessOperator
from edge_training.operators.image import BuildAndPushImageOperator, ResolveBaseImageOperator
from edge_training.operators.janitor import SweepSiteOperator
from edge_training.operators.model import RegisterModelOperator
from edge_training.operators.run import PollRunOperator
from edge_training.retries import TypedRetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge_training.site import SiteConfig

PROJECT = Path(__file__).resolve().parents[2]
# An organisation may keep its sites and its training projects in repositories of their own.
SITES = Path(os.environ.get("EDGE_TRAINING_SITES") or PROJECT / "include" / "sites")
SCRIPTS = Path(os.environ.get("EDGE_TRAINING_SCRIPTS") or PROJECT / "include" / "training_scripts")
TASK_TIMEOUT = timedelta(hours=1)

DOCUMENTATION = """
### {name}: retrains `{project}` where its data lives

{description}

| task | does |
|---|---|
| `verify_blob_data` | checks the blobs below `{container}/{prefix}` and fingerprints them |
| `check_training_code` | lists exactly the files that will leave as the run's snapshot |
| `resolve_base_image` | pins the serving image's base by digest, before anything is trained |
| `ensure_compute_attached` | measures the VM and attaches it as `{compute}` when needed |
| `grant_data_access` / `revoke_data_access` | puts a short-lived, read-only permission for exactly these blobs on the VM, and removes it |
| `submit_experiment` | submits the run, once per DAG run |
| `poll_run` | waits without a worker, prints the remote log |
| `register_model` | registers `{model}` with its lineage, once per run |
| `build_and_push_image` | composes the serving image and pushes it to `{repository}` |

What each task logs, its errors and what to do: `docs/operating.md`.
"""

JANITOR_DOCUMENTATION = """
### Cleans up after tasks whose process is gone

A person may end a task while the triggerer is down, and a machine may die with a task on it; the remote run would go on. For every site,
one task finds the runs whose DAG run is over by their lineage tags and cancels them, and removes expired grants from the VM.
"""


def build_dag(site: SiteConfig) -> DAG:
    """Make the DAG of a site.

    :param site: the site.
    """
    with DAG(
        dag_id=site.dag_id,
        description=site.description or None,
        doc_md=_documentation(site),
        schedule=site.schedule,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["edge-training", f"site:{site.name}"],
        default_args=_default_args(site),
    ) as dag:
        _add_tasks(site)
    return dag


def build_janitor(sites: Iterable[SiteConfig]) -> DAG:
    """Make the DAG that cleans up, every quarter of an hour and for every site, what no task can clean up after itself.

    :param sites: the sites.
    """
    with DAG(
        dag_id="edge_training_janitor",
        description="Cancels remote runs whose DAG run is over, and removes expired grants.",
        doc_md=JANITOR_DOCUMENTATION,
        schedule="*/15 * * * *",
        is_paused_upon_creation=False,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["edge-training"],
    ) as dag:
        for site in sites:
            SweepSiteOperator(
                task_id=f"sweep_{site.name}",
                site=site.name,
                experiment=site.training.experiment,
                azure_ml_conn_id=site.azure_ml,
                training_vm_conn_id=site.compute.connection,
                **_default_args(site),
            )
    return dag


def _default_args(site: SiteConfig) -> dict[str, Any]:
    return {
        "owner": site.owner,
        "retries": site.retries,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
        "retry_policy": TypedRetryPolicy(),
        "execution_timeout": TASK_TIMEOUT,
    }


def _add_tasks(site: SiteConfig) -> None:
    training, data_settings = site.training, site.data
    data = VerifyBlobDataOperator(
        task_id="verify_blob_data",
        container=data_settings.container,
        prefix=data_settings.prefix,
        suffix=data_settings.suffix,
        schema_blob=data_settings.schema_blob,
        minimum_blobs=data_settings.minimum_blobs,
        minimum_bytes=int(data_settings.minimum_size),
        maximum_bytes=None if data_settings.maximum_size is None else int(data_settings.maximum_size),
        maximum_age=data_settings.maximum_age,
        blob_conn_id=data_settings.connection,
    )
    code = CheckTrainingCodeOperator(
        task_id="check_training_code", project=training.project, scripts_folder=str(SCRIPTS)
    )
    base = ResolveBaseImageOperator(
        task_id="resolve_base_image",
        base=site.image.base,
        platform=site.image.platform,
        container_registry_conn_id=site.image.connection,
    )
    compute = _compute_task(site)
    grant = GrantDataAccessOperator(
        task_id="grant_data_access",
        manifest=data.output,
        lifetime=data_settings.grant_lifetime,
        training_vm_conn_id=site.compute.connection,
        blob_conn_id=data_settings.connection,
    )
    submission: dict[str, Any] = {
        "site": site.name,
        "experiment": training.experiment,
        "project": training.project,
        "scripts_folder": str(SCRIPTS),
        "parameters": training.parameters,
        "maximum_duration": training.maximum_duration,
        "grant_lifetime": data_settings.grant_lifetime,
        "data": data.output,
        "code": code.output,
        "compute": compute.output,
        "azure_ml_conn_id": site.azure_ml,
        "training_vm_conn_id": site.compute.connection,
        "blob_conn_id": data_settings.connection,
    }
    run = SubmitExperimentOperator(task_id="submit_experiment", grant=grant.output, **submission)
    result = PollRunOperator(
        task_id="poll_run",
        run=run.output,
        model_file=site.model.file,
        poll_interval=training.poll_interval,
        # The operator ends the run itself at the site's limit; Airflow's must come later, or the run would go on.
        execution_timeout=training.maximum_duration + TASK_TIMEOUT,
        **submission,
    )
    revoke = RevokeDataAccessOperator(
        task_id="revoke_data_access", grant=grant.output, training_vm_conn_id=site.compute.connection
    )
    model = RegisterModelOperator(
        task_id="register_model",
        site=site.name,
        model_name=site.model.name,
        model_file=site.model.file,
        minimum_metrics=site.model.minimum_metrics,
        data=data.output,
        code=code.output,
        result=result.output,
        azure_ml_conn_id=site.azure_ml,
    )
    BuildAndPushImageOperator(
        task_id="build_and_push_image",
        model=model.output,
        base=base.output,
        project=training.project,
        scripts_folder=str(SCRIPTS),
        repository=site.image.repository,
        azure_ml_conn_id=site.azure_ml,
        container_registry_conn_id=site.image.connection,
    )
    # Nothing is granted before the VM is known to be the right one, and nothing is trained without a place for its image.
    compute >> grant
    base >> run
    result >> revoke.as_teardown(setups=grant)


def _compute_task(site: SiteConfig) -> EnsureComputeAttachedOperator:
    compute = site.compute
    return EnsureComputeAttachedOperator(
        task_id="ensure_compute_attached",
        compute_name=compute.name,
        address=compute.address,
        port=compute.port,
        resource_id=compute.resource_id,
        python=compute.python,
        needs={
            "cpus": compute.needs.cpus,
            "memory_bytes": int(compute.needs.memory),
            "disk_bytes": int(compute.needs.disk),
            "gpus": compute.needs.gpus,
            "docker": compute.needs.docker,
        },
        training_vm_conn_id=compute.connection,
        blob_conn_id=site.data.connection,
        azure_ml_conn_id=site.azure_ml,
    )


def _documentation(site: SiteConfig) -> str:
    return DOCUMENTATION.format(
        name=site.name,
        project=site.training.project,
        description=site.description,
        container=site.data.container,
        prefix=site.data.prefix,
        compute=site.compute.name,
        model=site.model.name,
        repository=site.image.repository,
    )
