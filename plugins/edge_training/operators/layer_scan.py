"""Looks for training data in an image before it is started anywhere, where the data is: on the training VM.

The worker fetches what the image has besides its base and streams it to the scanner on the VM, which keeps nothing of it. So the
host that serves needs no permission to read data, and the VM no login to the registry.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training import grants
from edge_training.exceptions import ResidencyError
from edge_training.operators.grant import make_grant
from edge_training.operators.scanning import data_findings, look_for_data, packed_scanner, policy_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow.sdk.types import Logger

    from edge_training.hooks.training_vm import TrainingVMHook
    from edge_training.images.contents import Contents
    from edge_training.records import BlobManifest, ImageReference

PURPOSE = "verify_image"
_CHUNK = 1 << 20
_MOST_NAMED = 10


@dataclass(frozen=True)
class Scanned:
    """What was looked through.

    :param files: how many files.
    :param bytes: their size together.
    :param seconds: how long it took, from the registry to the verdict.
    """

    files: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class LayerScan:
    """Where an image is looked through, and for which data.

    :param scripts_folder: ``include/training_scripts``, with the scanner.
    :param python: interpreter on the VM.
    :param policy: settings of the gate, as for the run.
    :param dag_run: ids of DAG and DAG run, which own the permission to read the data.
    :param maximum_duration: how long it may take; the permission ends then, too.
    :param training_vm_conn_id: Airflow connection of the VM.
    :param blob_conn_id: Airflow connection of the blob store.
    :param container_registry_conn_id: Airflow connection of the registry.
    """

    scripts_folder: Path
    python: str
    dag_run: tuple[str, str]
    policy: Mapping[str, Any] = field(default_factory=dict)
    maximum_duration: timedelta = timedelta(hours=1)
    training_vm_conn_id: str = "training_vm"
    blob_conn_id: str = "stack_hub_blob"
    container_registry_conn_id: str = "container_registry"

    def look(self, image: ImageReference, base: str, data: BlobManifest, log: Logger) -> Scanned:
        """Look through an image.

        :param image: the image.
        :param base: its base, by digest, whose layers are the organisation's own and not looked through.
        :param data: what its model was trained on.
        :param log: where to say what was found.
        :raises ResidencyError: when there is training data in it.
        :raises ImageError: when it is missing or damaged.
        :raises ServiceError: when the registry does not answer.
        :raises ComputeError: when the VM cannot be reached, or cannot scan.
        """
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="image-scan-") as folder:
            archive = Path(folder) / "contents.tar"
            contents = self._fetch(image, base, archive)
            verdict = self._scan(archive, data, image)
        _judge(verdict, contents, log)
        scanned = Scanned(verdict["files"], verdict["bytes"], time.monotonic() - begin)
        log.info(
            "%d files, %d bytes of layers %s were compared with %d blobs of training data in %.1f s: nothing of it is among them.",
            scanned.files,
            scanned.bytes,
            ", ".join(str(number) for number in contents.layers),
            len(data.blobs),
            scanned.seconds,
        )
        return scanned

    def _fetch(self, image: ImageReference, base: str, target: Path) -> Contents:
        from edge_training.hooks.container_registry import ContainerRegistryHook
        from edge_training.images.base import resolve_base
        from edge_training.images.contents import write_contents

        with ContainerRegistryHook(self.container_registry_conn_id).client() as client:
            known = {layer.digest for layer in resolve_base(client, base, None).layers} | {image.dependencies}
            return write_contents(client, image.repository, image.digest, known, target)

    def _scan(self, archive: Path, data: BlobManifest, image: ImageReference) -> dict[str, Any]:
        """Give the VM a permission to read the data for as long as the scan lasts, and scan."""
        from edge_training.hooks.training_vm import TrainingVMHook

        content, _ = make_grant(data, self.maximum_duration, self.dag_run, self.blob_conn_id)
        with TrainingVMHook(self.training_vm_conn_id) as vm:
            # Of the same name on every try; when this process dies, the janitor removes it by its owner.
            path = grants.grant_path(vm.home(), grants.grant_name(*self.dag_run, PURPOSE))
            vm.put_file(content, path)
            try:
                return self._look_for_data(vm, path, archive, data, image)
            finally:
                vm.remove(path)

    def _look_for_data(
        self, vm: TrainingVMHook, grant: str, archive: Path, data: BlobManifest, image: ImageReference
    ) -> dict[str, Any]:
        arguments = ["--tar", "-", "--grant", grant, "--fingerprint", data.fingerprint]
        return look_for_data(
            vm,
            self.python,
            packed_scanner(self.scripts_folder, self.policy),
            [*arguments, *policy_arguments(self.policy)],
            what=f"image {image.pinned}",
            seconds=self.maximum_duration.total_seconds(),
            stdin=_pieces(archive),
        )


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            yield piece


def _judge(verdict: Mapping[str, Any], contents: Contents, log: Logger) -> None:
    """Fail when there is training data in the image, naming file and layer."""
    found = [one for one in data_findings(verdict, log) if one["kind"] != "bomb" or contents.is_served(one["file"])]
    if found:
        named = "; ".join(f"{contents.place(one['file'])}: {one['reason']}" for one in found[:_MOST_NAMED])
        raise ResidencyError(
            f"Image {contents.reference} holds training data: {named}. It was started nowhere and is not deployed. Find out how the data "
            "got there; then take it out of the scoring code or train anew, and delete the image from the registry."
        )
