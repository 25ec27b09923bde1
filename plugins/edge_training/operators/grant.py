"""The run's permission to read the data: put on the VM before the run, taken away after it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training import grants
from edge_training.airflow_state import is_dag_run_over
from edge_training.exceptions import ConfigurationError
from edge_training.operators.wiping import wipe_abandoned
from edge_training.records import BlobManifest, DataGrant, JsonObject

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk import Context
    from airflow.sdk.types import Logger

    from edge_training.hooks.training_vm import TrainingVMHook


class GrantDataAccessOperator(BaseOperator):
    """Puts a grant on the training VM: permission to read exactly the verified blobs, for a limited time. A setup task.

    The grant is a file that only the training account can read; one per DAG run, so that a retry replaces it. Nothing of it passes through
    Azure ML or XCom but its path, fingerprint and end.

    :param manifest: the :class:`BlobManifest` that the verification returned.
    :param lifetime: how long the permission lasts: the longest training and its wait for the VM.
    :param training_vm_conn_id: the Airflow connection to the VM.
    :param blob_conn_id: the Airflow connection to the blob store.
    :raises ConfigurationError: when the manifest is of another blob store than the connection, or the lifetime is over a week.
    :raises ComputeError: when the VM cannot be reached or has no room.
    """

    template_fields = ("manifest", "training_vm_conn_id", "blob_conn_id")
    ui_color = "#fef3c7"

    def __init__(
        self,
        *,
        manifest: Any,
        lifetime: timedelta,
        training_vm_conn_id: str = "training_vm",
        blob_conn_id: str = "stack_hub_blob",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.manifest = manifest
        self.lifetime = lifetime
        self.training_vm_conn_id = training_vm_conn_id
        self.blob_conn_id = blob_conn_id

    def execute(self, context: Context) -> JsonObject:
        """Write the grant and return where it is."""
        manifest = BlobManifest.from_json(self.manifest)
        return write_grant(
            manifest, self.lifetime, _dag_run(context), self.training_vm_conn_id, self.blob_conn_id, self.log
        ).to_json()


def write_grant(
    manifest: BlobManifest,
    lifetime: timedelta,
    dag_run: tuple[str, str],
    training_vm_conn_id: str,
    blob_conn_id: str,
    log: Logger,
) -> DataGrant:
    """Put a DAG run's grant on the VM, in place of the one that may be there, after removing those that nobody needs any more.

    :param manifest: the verified blobs.
    :param lifetime: how long the permission lasts.
    :param dag_run: ids of DAG and DAG run.
    :param training_vm_conn_id: the Airflow connection to the VM.
    :param blob_conn_id: the Airflow connection to the blob store.
    :param log: where to say it.
    :raises ConfigurationError: when the manifest is of another blob store than the connection, or the lifetime is over a week.
    :raises ComputeError: when the VM cannot be reached or has no room.
    """
    from edge_training.hooks.training_vm import TrainingVMHook

    content, expires = make_grant(manifest, lifetime, dag_run, blob_conn_id)
    with TrainingVMHook(training_vm_conn_id) as vm:
        remove_old_grants(vm, dag_run[0], log)
        path = grants.grant_path(vm.home(), grants.grant_name(*dag_run))
        vm.put_file(content, path, mode=0o600)
        log.info(
            "Granted %s@%s to read %d blobs until %s, by %s (fingerprint %s)",
            vm.user,
            vm.host,
            len(manifest.blobs),
            grants.time_text(expires),
            path,
            manifest.fingerprint,
        )
    return DataGrant(path=path, fingerprint=manifest.fingerprint, expires=grants.time_text(expires))


def make_grant(
    manifest: BlobManifest, lifetime: timedelta, dag_run: tuple[str, str], blob_conn_id: str
) -> tuple[bytes, datetime]:
    """Return the content of a grant that begins now, and its end.

    :param manifest: the verified blobs.
    :param lifetime: how long the permission lasts.
    :param dag_run: ids of DAG and DAG run.
    :param blob_conn_id: the Airflow connection to the blob store.
    :raises ConfigurationError: when the manifest is of another blob store than the connection, or the lifetime is over a week.
    """
    from edge_training.hooks.stack_hub_blob import StackHubBlobHook

    blobs = StackHubBlobHook(blob_conn_id)
    if blobs.account_url != manifest.account_url:
        raise ConfigurationError(
            f"The blobs were verified at {manifest.account_url} but connection '{blob_conn_id}' is for {blobs.account_url}: "
            "use one connection for both, or clear the verification."
        )
    expires = grants.grant_expiry(datetime.now(UTC), lifetime)
    content = grants.grant_content(
        manifest,
        lambda name: blobs.sign_read_url(manifest.container, name, expires),
        expires,
        dag_run=dag_run,
        api_version=blobs.api_version,
        ca_pem=blobs.ca_pem(),
    )
    return content, expires


class RevokeDataAccessOperator(BaseOperator):
    """Removes the DAG run's grant from the training VM, the old ones there, and the data of killed runs. A teardown task.

    It needs nothing from the setup task but the same DAG run, so that it also cleans up after one that died half-way; a grant that
    is not there is fine.

    :param scripts_folder: ``include/training_scripts``, with the runner that knows what a run leaves.
    :param grant: the :class:`DataGrant` that the setup task returned, or ``None`` when it returned nothing.
    :param python: an interpreter on the VM.
    :param training_vm_conn_id: the Airflow connection to the VM.
    :raises ComputeError: when the VM cannot be reached; the grant then ends by itself, at the time in its record. Likewise when something
        of the data cannot be removed.
    """

    template_fields = ("grant", "training_vm_conn_id")
    ui_color = "#fef3c7"

    def __init__(
        self,
        *,
        scripts_folder: str,
        grant: Any = None,
        python: str = "python3",
        training_vm_conn_id: str = "training_vm",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scripts_folder = scripts_folder
        self.grant = grant
        self.python = python
        self.training_vm_conn_id = training_vm_conn_id

    def execute(self, context: Context) -> None:
        """Remove this DAG run's grant, the old ones, and the data of killed runs; the grants first, for they work anywhere."""
        from edge_training.hooks.training_vm import TrainingVMHook

        with TrainingVMHook(self.training_vm_conn_id) as vm:
            path = grants.grant_path(vm.home(), grants.grant_name(*_dag_run(context)))
            removed = vm.remove(path)
            self.log.info("%s the grant %s on %s", "Removed" if removed else "There was no more", path, vm.host)
            remove_old_grants(vm, self.dag_id, self.log)
            wipe_abandoned(vm, self.scripts_folder, self.python, self.log)


def remove_old_grants(vm: TrainingVMHook, dag_id: str, log: Logger) -> list[str]:
    """Remove the grants that nobody needs any more, and return their names.

    :param vm: the training VM.
    :param dag_id: the site's DAG.
    :param log: where to say it, each with its reason.
    :raises ComputeError: when the VM cannot be reached.
    """
    home = vm.home()
    removed = []
    for grant in grants.old_grants(list_grants(vm), datetime.now(UTC), dag_id, is_dag_run_over):
        if vm.remove(grants.grant_path(home, grant.name)):
            log.warning("Removed grant %s, which an earlier run had left: %s.", grant.name, grant.reason)
            removed.append(grant.name)
    return removed


def list_grants(vm: TrainingVMHook) -> list[grants.StoredGrant]:
    """Return the grants that lie on the VM, of all DAG runs.

    :param vm: the training VM.
    :raises ComputeError: when the VM cannot be reached.
    """
    return grants.parse_grants(vm.output("sh -s", "list the grants", stdin=grants.LIST_GRANTS.encode()))


def _dag_run(context: Context) -> tuple[str, str]:
    return context["ti"].dag_id, context["run_id"]
