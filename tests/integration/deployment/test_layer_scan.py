"""Training data in an image is found before the image is started, on the VM and by its scanner; the host that serves is told nothing."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ComputeError, ConfigurationError, ImageError, ResidencyError
from edge_training.grants import GRANT_FOLDER, grant_name
from edge_training.hooks.stack_hub_blob import StackHubBlobHook
from edge_training.images.contents import write_contents
from edge_training.operators.layer_scan import PURPOSE
from edge_training.operators.preparation import PrepareServingHostOperator
from edge_training.records import ImageVerification
from edge_training.retries import TypedRetryPolicy
from tests.integration.deployment.support import REPOSITORY, push_image
from tests.integration.images.support import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_training.images.registry import RegistryClient
    from tests.airflow_harness import RunTask
    from tests.integration.deployment.site import Made
    from tests.integration.training.conftest import Pipeline


@pytest.fixture
def rows(made: Made) -> list[str]:
    """Return some rows of the training data, as text."""
    return StackHubBlobHook().read("training-data", "breast-cancer/2025-11.csv", 1_000_000).decode().splitlines()[1:9]


def left_on_the_vm(local_site: Any) -> list[str]:
    listed = local_site.ssh(
        "cd ~/.edge-training && find grants work scan.* -mindepth 1 ! -name lock 2>/dev/null; ls -d scan.*"
    )
    return listed.stdout.split()  # type: ignore[no-any-return]  # the site's own fixture is not typed


def test_an_honest_image_is_compared_with_the_data_and_nothing_of_it_stays_on_the_vm(
    made: Made, pipeline: Pipeline, local_site: Any
) -> None:
    image, model = made.version()
    # What a try that was killed has left is replaced, and goes with the rest.
    name = grant_name("unit", pipeline.run_id, PURPOSE)
    assert local_site.ssh(f"mkdir -p ~/{GRANT_FOLDER} && echo old >~/{GRANT_FOLDER}/{name}").returncode == 0
    found = ImageVerification.from_json(pipeline.value(made.verify(image, model, require_probe=True)))
    # Manifest, configuration, code and model at least; nothing of the base.
    assert 4 <= found.scanned_files < 10
    assert found.scanned_bytes > 1000
    assert found.scan_seconds > 0
    assert not [one for one in left_on_the_vm(local_site) if name in one or "run-" in one or "scan." in one]


def test_rows_in_a_layer_or_in_a_label_stop_the_image_and_the_message_has_the_place_and_no_value(
    made: Made, pipeline: Pipeline, rows: list[str], local_site: Any
) -> None:
    cells = {cell for row in rows for cell in row.split(",") if len(cell) > 4}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("inner")
        member.size = len("\n".join(rows))
        archive.addfile(member, io.BytesIO("\n".join(rows).encode()))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"files": {"app/notes.txt": "\n".join(rows).encode()}}, r"/app/notes.txt of layer 2 (code): "),
        ({"files": {"app/cache.bin": packed.getvalue()}}, r"/app/cache.bin of layer 2 (code): "),
        ({"label": " ".join(rows)}, "its config: "),
        ({"files": {f"app/{rows[0]}": b""}}, "the name of a file: "),
    ]
    for leak, place in cases:
        image, model = made.version(**leak)
        outcome = pipeline.run(made.verify(image, model, retry_policy=TypedRetryPolicy()))
        assert isinstance(outcome.error, ResidencyError), outcome.error
        assert outcome.state == "failed"
        assert place in str(outcome.error)
        assert not any(cell in str(outcome.error) for cell in cells)
        noted = local_site.ssh(f"ls ~/.edge-training/serving/images/{image['digest'].removeprefix('sha256:')}.image")
        assert noted.returncode != 0


def test_what_cannot_be_scanned_is_not_started(made: Made, pipeline: Pipeline) -> None:
    image, model = made.version()
    unfit = {**made.looked["compute"], "python": "/no/such/python"}
    made.looked["compute"] = unfit
    outcome = pipeline.run(made.verify(image, model))
    assert isinstance(outcome.error, ComputeError)
    assert "could not look for data in image" in str(outcome.error)
    made.looked["policy"] = {"scan_bits": "many"}
    assert isinstance(pipeline.run(made.verify(image, model)).error, ComputeError)


def test_layers_that_are_left_out_are_not_in_the_archive_and_a_missing_image_says_so(
    client: RegistryClient, tmp_path: Path
) -> None:
    digest = push_image(client, 1, files={"app/deep/er/file": b"x"})
    all_of_it = write_contents(client, REPOSITORY, digest, (), tmp_path / "all")
    base = all_of_it.layers[1].digest
    own = write_contents(client, REPOSITORY, digest, {base}, tmp_path / "own")
    assert (list(all_of_it.layers), list(own.layers)) == ([1, 2, 3], [2, 3])
    with tarfile.open(tmp_path / "own") as archive:
        files = {member.name for member in archive if member.isfile()}
    assert files == {"manifest.json", "config.json", "2/app/serve.py", "2/app/deep/er/file", "3/model/version"}
    with pytest.raises(ImageError, match="not in the registry"):
        write_contents(client, REPOSITORY, "sha256:" + "0" * 64, (), tmp_path / "none")


def prepare(made: Made, lock: Path, **options: Any) -> PrepareServingHostOperator:
    fields = {
        "task_id": "prepare",
        "base": made.looked["base"],
        "scripts_folder": made.looked["scripts_folder"],
        "repository": REPOSITORY,
        "serving_lock": str(lock),
        "cache_dir": str(made.folder / "cache"),
    }
    return PrepareServingHostOperator(**{**fields, **options})


def test_a_host_is_prepared_once_and_a_host_that_is_lost_only_warned_about(
    made: Made, connect: Callable[..., None], run_task: RunTask
) -> None:
    lock = made.folder / "requirements.lock"
    lock.write_text("")
    first = run_task(prepare(made, lock))
    assert first.state == "success", first.error
    assert first.value["layers"] == 2
    again = run_task(prepare(made, lock), try_number=2)
    assert (again.value["layers"], again.value["fetched_layers"]) == (2, 0)
    only_base = run_task(prepare(made, lock, builder="azure_ml"))
    assert (only_base.value["layers"], only_base.value["fetched_layers"]) == (1, 0)
    connect(port=free_port())
    lost = run_task(prepare(made, lock))
    assert (lost.state, lost.value["layers"]) == ("success", 0)
    missing = prepare(made, made.folder / "missing.lock", cache_dir=str(made.folder / "another"))
    assert isinstance(run_task(missing).error, ConfigurationError)
