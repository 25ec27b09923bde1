"""The tasks that try out, deploy, go back and clean up: over SSH, with the local site's registry, VM and Azure ML."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ConfigurationError, DeploymentError, ImageError
from edge_training.hooks.azure_ml_models import ModelTagsHook
from edge_training.operators.deployment import DeployModelOperator, RollBackOperator
from edge_training.operators.retention import RemoveOldOperator
from edge_training.records import Deployment, ImageVerification
from tests.integration.deployment.site import MODEL, Made
from tests.integration.deployment.support import REPOSITORY, ask
from tests.integration.images.support import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_training.images.registry import RegistryClient
    from tests.airflow_harness import RunTask


def host_target(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "host", "name": name, "connection": "serving_host", **more}


def deploy_task(targets: list[dict[str, Any]], image: Any, model: Any) -> DeployModelOperator:
    return DeployModelOperator(
        task_id="deploy",
        site="test",
        targets=targets,
        repository=REPOSITORY,
        image=image,
        model=model,
        require_probe=True,
    )


def roll_back_task(targets: list[dict[str, Any]], digest: str = "previous", target: str = "") -> RollBackOperator:
    return RollBackOperator(
        task_id="back", site="test", targets=targets, repository=REPOSITORY, digest=digest, target=target
    )


def tags_of(version: int) -> dict[str, str]:
    return {
        name: tags
        for number, found in ModelTagsHook().versions(MODEL)
        if number == version
        for name, tags in found.items()
    }


def test_an_image_is_verified_deployed_replaced_and_brought_back(
    made: Made, run_task: RunTask, local_site_env: dict[str, str]
) -> None:
    port = int(local_site_env["LOCAL_SITE_SERVING_PORT"])
    targets = [host_target("edge")]
    first_image, first_model = made.version()
    verified = run_task(made.verify(first_image, first_model, require_probe=True))
    assert verified.state == "success", verified.error
    found = ImageVerification.from_json(verified.value)
    assert (found.digest, found.compared, found.isolation) == (first_image["digest"], 2, "bubblewrap")

    first = run_task(deploy_task(targets, first_image, first_model))
    assert first.state == "success", first.error
    (record,) = [Deployment.from_json(one) for one in first.value]
    assert (record.decision, record.previous, record.where) == ("deployed", "", f"http://127.0.0.1:{port}/score")
    assert ask(port)[1]["version"] == str(first_model["version"])

    second_image, second_model = made.version()
    second = run_task(deploy_task(targets, second_image, second_model))
    assert second.value[0]["previous"] == first_image["digest"]
    assert ask(port)[1]["version"] == str(second_model["version"])
    again = run_task(deploy_task(targets, second_image, second_model), try_number=2)
    assert again.value[0]["decision"] == "unchanged"
    assert "deployed.test.edge" not in tags_of(first_model["version"])
    assert tags_of(second_model["version"])["deployed.test.edge"].startswith(second_image["digest"])

    back = run_task(roll_back_task(targets))
    assert back.state == "success", back.error
    assert (back.value[0]["digest"], back.value[0]["version"]) == (first_image["digest"], str(first_model["version"]))
    assert ask(port)[1]["version"] == str(first_model["version"])
    assert tags_of(first_model["version"])["deployed.test.edge"].startswith(first_image["digest"])
    forward = run_task(roll_back_task(targets, second_image["digest"], "edge"))
    assert forward.state == "success", forward.error
    assert ask(port)[1]["version"] == str(second_model["version"])


def test_an_image_that_answers_otherwise_fails_for_good_and_nothing_is_deployed(made: Made, run_task: RunTask) -> None:
    image, model = made.version(FACTOR="2.2")
    verified = run_task(made.verify(image, model))
    assert isinstance(verified.error, DeploymentError)
    assert not verified.error.retryable
    assert "answer.sum is 7.7, recorded was 7" in str(verified.error)
    port = free_port()
    deployed = run_task(deploy_task([host_target("other", port=port)], image, model))
    assert isinstance(deployed.error, DeploymentError)
    with pytest.raises(OSError, match="refused"):
        ask(port)


def test_a_model_without_recorded_answers_is_refused_where_they_are_required(made: Made, run_task: RunTask) -> None:
    image, model = made.version()
    unknown = {**model, "run_id": ""}
    refused = run_task(made.verify(image, unknown, require_probe=True))
    assert isinstance(refused.error, ImageError)
    assert "left no outputs/probe.json" in str(refused.error)
    lenient = run_task(made.verify(image, unknown))
    assert lenient.value["compared"] == 0


def test_a_host_that_cannot_be_reached_may_be_tried_again_and_does_not_keep_the_others_from_theirs(
    made: Made, connect: Callable[..., None], run_task: RunTask, tmp_path: Path
) -> None:
    image, model = made.version()
    folder = tmp_path / "carry"
    targets = [
        host_target("lost", port=free_port()),
        {"kind": "layout", "name": "carry", "folder": str(folder)},
        {"kind": "kubernetes", "name": "cluster", "folder": str(folder)},
    ]
    connect(port=free_port())
    outcome = run_task(deploy_task(targets, image, model))
    assert isinstance(outcome.error, DeploymentError)
    assert outcome.state == "up_for_retry"
    assert "Serving host" in str(outcome.error)
    index = json.loads((folder / "index.json").read_text())
    assert [one["digest"] for one in index["manifests"]] == [image["digest"]]
    assert f"{REPOSITORY}@{image['digest']}" in (folder / "cluster.yaml").read_text()


def test_folders_get_the_whole_image_once_and_can_go_back(made: Made, run_task: RunTask, tmp_path: Path) -> None:
    targets = [{"kind": "layout", "name": "carry", "folder": str(tmp_path / "carry")}]
    versions = [made.version(), made.version()]
    for image, model in versions:
        outcome = run_task(deploy_task(targets, image, model))
        assert outcome.state == "success", outcome.error
    blobs = tmp_path / "carry/blobs/sha256"
    manifest = json.loads((blobs / versions[1][0]["digest"].removeprefix("sha256:")).read_text())
    assert all(
        (blobs / one["digest"].removeprefix("sha256:")).stat().st_size == one["size"] for one in manifest["layers"]
    )
    back = run_task(roll_back_task(targets))
    assert back.value[0]["digest"] == versions[0][0]["digest"]
    (only,) = json.loads((tmp_path / "carry/index.json").read_text())["manifests"]
    assert (only["digest"], only["annotations"]) == (
        versions[0][0]["digest"],
        {"org.opencontainers.image.ref.name": "carry"},
    )


def test_there_is_nothing_to_go_back_to_at_first(made: Made, run_task: RunTask, tmp_path: Path) -> None:
    targets = [{"kind": "layout", "name": "carry", "folder": str(tmp_path / "carry")}]
    outcome = run_task(roll_back_task(targets))
    assert isinstance(outcome.error, DeploymentError)
    assert "Nothing served at target 'carry' before" in str(outcome.error)
    missing = run_task(roll_back_task(targets, "sha256:" + "0" * 64))
    assert isinstance(missing.error, ImageError)
    unknown = run_task(roll_back_task(targets, target="elsewhere"))
    assert isinstance(unknown.error, ConfigurationError)
    assert "it has carry" in str(unknown.error)


def test_a_connection_without_a_port_says_what_is_missing(
    made: Made, connect: Callable[..., None], run_task: RunTask, local_site_env: dict[str, str]
) -> None:
    image, model = made.version()
    keys = {"host_key": local_site_env["LOCAL_SITE_VM_HOST_KEY"], "key_file": local_site_env["LOCAL_SITE_VM_KEY_FILE"]}
    connect(extra=keys)
    outcome = run_task(deploy_task([host_target("edge")], image, model))
    assert isinstance(outcome.error, ConfigurationError)
    assert "extra serving_port ''" in str(outcome.error)


def test_retention_says_first_and_removes_only_what_nobody_needs(
    made: Made, client: RegistryClient, run_task: RunTask, tmp_path: Path
) -> None:
    targets = [{"kind": "layout", "name": "carry", "folder": str(tmp_path / "carry")}]
    versions = [made.version() for _ in range(4)]
    assert run_task(deploy_task(targets, *versions[0])).state == "success"

    def remove(only_say: str) -> Any:
        outcome = run_task(
            RemoveOldOperator(
                task_id="remove",
                targets=targets,
                repository=REPOSITORY,
                model_name=MODEL,
                keep_images=2,
                keep_versions=2,
                only_say=only_say,
            )
        )
        assert outcome.state == "success", outcome.error
        return outcome.value

    told = remove("True")
    assert told["dry_run"]
    assert versions[1][0]["digest"] in told["images"]
    assert not {versions[index][0]["digest"] for index in (0, 2, 3)} & set(told["images"])
    assert client.find_manifest(REPOSITORY, versions[1][0]["digest"]) is not None
    assert remove("False") == {**told, "dry_run": False}
    assert client.find_manifest(REPOSITORY, versions[1][0]["digest"]) is None
    assert client.find_manifest(REPOSITORY, versions[0][0]["digest"]) is not None
    left = {number for number, _ in ModelTagsHook().versions(MODEL)}
    assert left == {model["version"] for index, (_, model) in enumerate(versions) if index != 1}
    assert remove("False") == {"dry_run": False, "images": [], "versions": []}
