"""The phases of a site's DAG: which task does what, and which record it takes from which.

Each function adds the tasks of one phase to the DAG that is being made, and returns what the later phases need of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training.deployment.probes import PROBE_FILE
from edge_training.operators.blob import VerifyBlobDataOperator
from edge_training.operators.code import CheckTrainingCodeOperator
from edge_training.operators.code_scan import ScanTrainingCodeOperator
from edge_training.operators.compute import EnsureComputeAttachedOperator
from edge_training.operators.deployment import DeployModelOperator
from edge_training.operators.egress import AuditEgressOperator
from edge_training.operators.experiment import SubmitExperimentOperator
from edge_training.operators.grant import GrantDataAccessOperator, RevokeDataAccessOperator
from edge_training.operators.image import BuildAndPushImageOperator, ResolveBaseImageOperator
from edge_training.operators.late_audit import AuditLeftRunsOperator
from edge_training.operators.model import RegisterModelOperator
from edge_training.operators.preparation import PrepareServingHostOperator
from edge_training.operators.run import PollRunOperator
from edge_training.operators.verification import VerifyImageOperator
from edge_training.site import Model

if TYPE_CHECKING:
    from edge_training.site import SiteConfig

PROJECT = Path(__file__).resolve().parents[2]
# An organisation may keep its training projects in a repository of their own.
SCRIPTS = Path(os.environ.get("EDGE_TRAINING_SCRIPTS") or PROJECT / "include" / "training_scripts")
TASK_TIMEOUT = timedelta(hours=1)


@dataclass(frozen=True)
class Prepared:
    """What is checked before anything leaves or is changed on the VM."""

    data: VerifyBlobDataOperator
    code: CheckTrainingCodeOperator
    base: ResolveBaseImageOperator
    compute: EnsureComputeAttachedOperator


def prepare(site: SiteConfig) -> Prepared:
    """Check the data, the code, the base image and the VM; only the code waits for something: to be compared with the data.

    :param site: the site.
    """
    data = _verify_data(site)
    return Prepared(
        data=data,
        code=CheckTrainingCodeOperator(
            task_id="check_training_code",
            project=site.training.project,
            scripts_folder=str(SCRIPTS),
            data=data.output,
            policy=_policy(site),
        ),
        base=ResolveBaseImageOperator(
            task_id="resolve_base_image",
            base=site.image.base,
            platform=site.image.platform,
            container_registry_conn_id=site.image.connection,
        ),
        compute=_ensure_compute(site),
    )


def train(site: SiteConfig, prepared: Prepared) -> PollRunOperator:
    """Grant the data, submit the run, wait for it, and take the grant back.

    :param site: the site.
    :param prepared: what was checked before.
    """
    grant = GrantDataAccessOperator(
        task_id="grant_data_access",
        manifest=prepared.data.output,
        lifetime=site.data.grant_lifetime,
        training_vm_conn_id=site.compute.connection,
        blob_conn_id=site.data.connection,
    )
    scan = ScanTrainingCodeOperator(
        task_id="scan_training_code",
        project=site.training.project,
        scripts_folder=str(SCRIPTS),
        code=prepared.code.output,
        compute=prepared.compute.output,
        grant=grant.output,
        policy=_policy(site),
        training_vm_conn_id=site.compute.connection,
    )
    submission = _submission(site, prepared)
    run = SubmitExperimentOperator(task_id="submit_experiment", grant=grant.output, **submission)
    result = PollRunOperator(
        task_id="poll_run",
        run=run.output,
        model_file=site.model.file,
        poll_interval=site.training.poll_interval,
        # The operator ends the run itself at the site's limit; Airflow's must come later, or the run would go on.
        execution_timeout=site.training.maximum_duration + TASK_TIMEOUT,
        **submission,
    )
    revoke = RevokeDataAccessOperator(
        task_id="revoke_data_access",
        scripts_folder=str(SCRIPTS),
        grant=grant.output,
        python=site.compute.python,
        training_vm_conn_id=site.compute.connection,
    )
    # Nothing is granted before the VM is known to be the right one, and nothing is trained without a place for its image.
    prepared.compute >> grant
    prepared.base >> run
    # The runner removes the grant at its end: the scan must be over before.
    scan >> run
    result >> revoke.as_teardown(setups=grant)
    return result


def audit(site: SiteConfig, prepared: Prepared, result: PollRunOperator) -> AuditEgressOperator:
    """Compare what Azure ML holds for each run with what was let out, and sign a receipt, whatever became of the run.

    :param site: the site.
    :param prepared: what was checked before.
    :param result: the task that waited for the run.
    """
    return AuditEgressOperator(
        task_id="audit_egress",
        data=prepared.data.output,
        code=prepared.code.output,
        result=result.output,
        **_auditing(site),
    )


def audit_what_is_left(site: SiteConfig, **options: Any) -> AuditLeftRunsOperator:
    """Audit the runs of a site that no task of their own DAG run has audited.

    :param site: the site.
    :param options: what else the task gets.
    """
    return AuditLeftRunsOperator(task_id=f"audit_{site.name}", **_auditing(site), **options)


def _auditing(site: SiteConfig) -> dict[str, Any]:
    residency = site.residency
    return {
        "site": site.name,
        "experiment": site.training.experiment,
        "parameters": site.training.parameters,
        # What a run that failed or was cancelled has printed and measured has left as well.
        "trigger_rule": "all_done",
        "container": residency.container,
        "delete_foreign_artifacts": residency.delete_foreign_artifacts,
        "platform_files": residency.platform_files,
        "key_conn_id": residency.key,
        "azure_ml_conn_id": site.azure_ml,
        "training_vm_conn_id": site.compute.connection,
        "blob_conn_id": _receipts_connection(site),
    }


def _receipts_connection(site: SiteConfig) -> str:
    return site.residency.connection or site.data.connection


def register(
    site: SiteConfig, prepared: Prepared, result: PollRunOperator, receipt: AuditEgressOperator
) -> RegisterModelOperator:
    """Register the run's model.

    :param site: the site.
    :param prepared: what was checked before.
    :param result: the task that waited for the run.
    :param receipt: the task that compared what left.
    """
    return RegisterModelOperator(
        task_id="register_model",
        site=site.name,
        model_name=site.model.name,
        model_file=site.model.file,
        minimum_metrics=site.model.minimum_metrics,
        data=prepared.data.output,
        code=prepared.code.output,
        result=result.output,
        receipt=receipt.output,
        repository=site.image.repository,
        azure_ml_conn_id=site.azure_ml,
        container_registry_conn_id=site.image.connection,
    )


def serve(
    site: SiteConfig, prepared: Prepared, model: RegisterModelOperator, receipt: AuditEgressOperator
) -> BuildAndPushImageOperator:
    """Make the model's serving image; what it shares with others is brought to its place while the model is trained.

    :param site: the site.
    :param prepared: what was checked before.
    :param model: the task that registered the model.
    :param receipt: the task that compared what left.
    """
    ready = PrepareServingHostOperator(
        task_id="prepare_serving_host",
        base=prepared.base.output,
        scripts_folder=str(SCRIPTS),
        repository=site.image.repository,
        builder=site.image.builder,
        compression=site.image.compression,
        container_registry_conn_id=site.image.connection,
        **_trial_host(site),
    )
    image = BuildAndPushImageOperator(
        task_id="build_and_push_image",
        model=model.output,
        base=prepared.base.output,
        project=site.training.project,
        scripts_folder=str(SCRIPTS),
        repository=site.image.repository,
        receipt=receipt.output,
        builder=site.image.builder,
        compression=site.image.compression,
        azure_ml_conn_id=site.azure_ml,
        blob_conn_id=site.residency.connection or site.data.connection,
        container_registry_conn_id=site.image.connection,
    )
    ready >> image
    return image


def deploy(
    site: SiteConfig, prepared: Prepared, model: RegisterModelOperator, image: BuildAndPushImageOperator
) -> None:
    """Look through the image, try it out where it will run, and put it into service at the site's targets.

    :param site: the site.
    :param prepared: what was checked before.
    :param model: the task that registered the model.
    :param image: the task that pushed the image.
    """
    verified = VerifyImageOperator(
        task_id="verify_image",
        image=image.output,
        base=prepared.base.output,
        data=prepared.data.output,
        compute=prepared.compute.output,
        scripts_folder=str(SCRIPTS),
        policy=_policy(site),
        model=model.output,
        require_probe=site.deployment.require_probe,
        timed_requests=site.deployment.timed_requests,
        start_seconds=site.deployment.start_seconds,
        training_vm_conn_id=site.compute.connection,
        blob_conn_id=site.data.connection,
        azure_ml_conn_id=site.azure_ml,
        container_registry_conn_id=site.image.connection,
        **_trial_host(site),
    )
    if site.deployment.targets:
        verified >> DeployModelOperator(
            task_id="deploy_model", image=image.output, model=model.output, **serving_settings(site)
        )


def serving_settings(site: SiteConfig) -> dict[str, Any]:
    """Return what every task must know that changes what is in service.

    :param site: the site.
    """
    return {
        "site": site.name,
        "targets": [target.model_dump(mode="json") for target in site.deployment.targets],
        "repository": site.image.repository,
        "require_probe": site.deployment.require_probe,
        "start_seconds": site.deployment.start_seconds,
        "azure_ml_conn_id": site.azure_ml,
        "container_registry_conn_id": site.image.connection,
    }


def _trial_host(site: SiteConfig) -> dict[str, Any]:
    """Return where images are tried out: at the first host that will serve them, else on the training VM."""
    host = site.deployment.host
    return {
        "python": host.python if host else "python3",
        "serving_host_conn_id": host.connection if host else site.compute.connection,
    }


def _verify_data(site: SiteConfig) -> VerifyBlobDataOperator:
    data = site.data
    return VerifyBlobDataOperator(
        task_id="verify_blob_data",
        container=data.container,
        prefix=data.prefix,
        suffix=data.suffix,
        schema_blob=data.schema_blob,
        minimum_blobs=data.minimum_blobs,
        minimum_bytes=int(data.minimum_size),
        maximum_bytes=None if data.maximum_size is None else int(data.maximum_size),
        maximum_age=data.maximum_age,
        blob_conn_id=data.connection,
    )


def _ensure_compute(site: SiteConfig) -> EnsureComputeAttachedOperator:
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


def _policy(site: SiteConfig) -> dict[str, Any]:
    """Return what the gate and the sandbox are told; a model of another name than the runner's default must be named to them."""
    policy = dict(site.residency.policy)
    if site.model.file != Model.model_fields["file"].default:
        policy.setdefault("model_files", (site.model.file, PROBE_FILE))
    return policy


def _submission(site: SiteConfig, prepared: Prepared) -> dict[str, Any]:
    """Return what both the task that submits and the one that waits must know, since each may have to submit."""
    training = site.training
    return {
        "site": site.name,
        "experiment": training.experiment,
        "project": training.project,
        "scripts_folder": str(SCRIPTS),
        "parameters": training.parameters,
        "policy": _policy(site),
        "maximum_duration": training.maximum_duration,
        "grant_lifetime": site.data.grant_lifetime,
        "data": prepared.data.output,
        "code": prepared.code.output,
        "compute": prepared.compute.output,
        "azure_ml_conn_id": site.azure_ml,
        "training_vm_conn_id": site.compute.connection,
        "blob_conn_id": site.data.connection,
        "receipts_container": site.residency.container,
        "receipts_conn_id": _receipts_connection(site),
    }
