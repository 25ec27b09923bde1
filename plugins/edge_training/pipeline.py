"""Makes the DAG of a site: which task does what, in which order, with which of the site's settings.

Imports no SDK and reads no service, so that parsing stays fast; the operators import what they need when they run.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param

from edge_training import phases
from edge_training.operators.deployment import RollBackOperator
from edge_training.operators.janitor import SweepSiteOperator
from edge_training.operators.retention import RemoveOldOperator
from edge_training.retries import TypedRetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edge_training.site import SiteConfig

# An organisation may keep its sites in a repository of their own.
SITES = Path(os.environ.get("EDGE_TRAINING_SITES") or phases.PROJECT / "include" / "sites")
JANITOR = "edge_training_janitor"
_ROLLBACK, _RETENTION = "rollback", "retention"

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
| `scan_training_code` | looks on the VM for rows of the data in these files |
| `submit_experiment` | submits the run, once per DAG run |
| `poll_run` | waits without a worker, prints the remote log |
| `audit_egress` | compares what Azure ML holds for the run with what was let out, and signs a receipt |
| `register_model` | registers `{model}` with its lineage, once per run |
| `prepare_serving_host` | brings what all images share to the host, while the model is trained |
| `build_and_push_image` | composes the serving image and pushes it to `{repository}` |
| `verify_image` | looks for training data in the image, tries it out where it will run, compares its answers with those of training |
| `deploy_model` | puts it into service at {targets}, or leaves there what serves |

What each task logs, its errors and what to do: `docs/operating.md`.
"""

JANITOR_DOCUMENTATION = """
### Cleans up after tasks whose process is gone

A person may end a task while the triggerer is down, and a machine may die with a task on it; the remote run would go on. For every site,
`sweep_` finds the runs whose DAG run is over by their lineage tags and cancels them, removes grants that nobody needs any more from the
VM, and writes on half-finished model versions which image they have, or that they have none. `audit_` signs a receipt for each run that has
none although its DAG run is over, say because a person ended all of it.
"""

ROLLBACK_DOCUMENTATION = """
### Brings an earlier image back into service

`roll_back` starts it beside what serves, makes sure that it is healthy and answers as recorded, and only then swaps. With `previous`, each
target gets what served there before; with a digest, all get that image. What serves stays when that does not work.
"""

RETENTION_DOCUMENTATION = """
### Removes old images and model versions

`remove_old` keeps as many of the newest as the site file says, and whatever is deployed or can be gone back to. A dry run, which it is
unless `dry_run` is switched off, only says what would go.
"""


def builders(sites: Sequence[SiteConfig]) -> dict[str, Callable[[], DAG]]:
    """Return how each DAG of some sites is made, by its id, so that a task need not make those of all sites to have its own.

    :param sites: the sites.
    """
    made: dict[str, Callable[[], DAG]] = {}
    for site in sites:
        made[site.dag_id] = partial(build_dag, site)
        made[_by_hand_id(site, _ROLLBACK)] = partial(build_rollback, site)
        made[_by_hand_id(site, _RETENTION)] = partial(build_retention, site)
    made[JANITOR] = partial(build_janitor, sites)
    return made


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
        receipt = phases.audit(site, prepared, result)
        model = phases.register(site, prepared, result, receipt)
        phases.deploy(site, prepared, model, phases.serve(site, prepared, model, receipt))
    return dag


def build_janitor(sites: Iterable[SiteConfig], schedule: str | None = "*/15 * * * *") -> DAG:
    """Make the DAG that cleans up, for every site, what no task can clean up after itself.

    :param sites: the sites.
    :param schedule: cron expression in UTC, or ``None`` to clean up on demand only.
    """
    with DAG(
        dag_id=JANITOR,
        description="Cancels remote runs whose DAG run is over and audits them, removes old grants, settles model versions.",
        doc_md=JANITOR_DOCUMENTATION,
        schedule=schedule,
        is_paused_upon_creation=False,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["edge-training"],
    ) as dag:
        for site in sites:
            sweep = SweepSiteOperator(
                task_id=f"sweep_{site.name}",
                site=site.name,
                dag_id=site.dag_id,
                experiment=site.training.experiment,
                model_name=site.model.name,
                repository=site.image.repository,
                scripts_folder=str(phases.SCRIPTS),
                python=site.compute.python,
                azure_ml_conn_id=site.azure_ml,
                training_vm_conn_id=site.compute.connection,
                container_registry_conn_id=site.image.connection,
                **_default_args(site),
            )
            # After it, because what was cancelled a moment ago has left something, too; and whether or not all could be swept.
            sweep >> phases.audit_what_is_left(site, **_default_args(site))
    return dag


def build_rollback(site: SiteConfig) -> DAG:
    """Make the DAG by which a person brings an earlier image of a site back into service.

    :param site: the site.
    """
    known = "previous" if not site.deployment.targets else ", ".join(target.name for target in site.deployment.targets)
    params = {
        "digest": Param(
            "previous",
            type="string",
            pattern=r"^(previous|sha256:[0-9a-f]{64})$",
            description="previous, or the digest of an image in the site's repository",
        ),
        "target": Param("", type="string", description=f"one target ({known}), or nothing for all"),
    }
    with _by_hand(site, _ROLLBACK, ROLLBACK_DOCUMENTATION, params) as dag:
        RollBackOperator(
            task_id="roll_back",
            digest="{{ params.digest }}",
            target="{{ params.target }}",
            **phases.serving_settings(site),
        )
    return dag


def build_retention(site: SiteConfig) -> DAG:
    """Make the DAG that removes a site's old images and model versions.

    :param site: the site.
    """
    params = {"dry_run": Param(True, type="boolean", description="only say what would go")}
    settings = phases.serving_settings(site)
    with _by_hand(site, _RETENTION, RETENTION_DOCUMENTATION, params) as dag:
        RemoveOldOperator(
            task_id="remove_old",
            targets=settings["targets"],
            repository=site.image.repository,
            model_name=site.model.name,
            keep_images=site.retention.images,
            keep_versions=site.retention.versions,
            only_say="{{ params.dry_run }}",
            azure_ml_conn_id=site.azure_ml,
            container_registry_conn_id=site.image.connection,
        )
    return dag


def _by_hand_id(site: SiteConfig, what: str) -> str:
    return f"edge_training_{what}_{site.name}"


def _by_hand(site: SiteConfig, what: str, documentation: str, params: dict[str, Param]) -> DAG:
    return DAG(
        dag_id=_by_hand_id(site, what),
        description=f"{what.capitalize()} of site '{site.name}', started by a person.",
        doc_md=documentation,
        schedule=None,
        is_paused_upon_creation=False,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        params=params,
        tags=["edge-training", f"site:{site.name}"],
        default_args=_default_args(site),
    )


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
        targets=", ".join(f"`{target.name}`" for target in site.deployment.targets) or "no target",
    )
