"""Makes the DAG of a site: which task does what, in which order, with which of the site's settings.

Imports no SDK and reads no service, so that parsing stays fast; the operators import what they need when they run.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG

from edge_training import phases
from edge_training.operators.janitor import SweepSiteOperator
from edge_training.retries import TypedRetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge_training.site import SiteConfig

# An organisation may keep its sites in a repository of their own.
SITES = Path(os.environ.get("EDGE_TRAINING_SITES") or phases.PROJECT / "include" / "sites")

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
        prepared = phases.prepare(site)
        result = phases.train(site, prepared)
        model = phases.register(site, prepared, result)
        phases.serve(site, prepared, model)
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
        "execution_timeout": phases.TASK_TIMEOUT,
    }


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
