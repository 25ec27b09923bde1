"""The witness sees what is planted: each thing that must not be left is put there for real, and found."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import requests

from edge_training.grants import GRANT_FOLDER, grant_name
from edge_training.images.media_types import OCI_CONFIG, OCI_MANIFEST, digest_of
from tests.system.chaos import evidence
from tests.system.chaos.evidence import Evidence, Told, Witness, judge
from tests.system.chaos.lanes import make_lane

if TYPE_CHECKING:
    from pathlib import Path

    from tests.running_site import RunningSite

DAG_RUN = "chaos_1"


@pytest.fixture
def witness(local_site: RunningSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Witness:
    """Return the witness of a lane that has left nothing yet."""
    # What is planted does not go away, so nothing is gained by waiting for that.
    monkeypatch.setattr(evidence, "SETTLE_SECONDS", 0.0)
    stack: Any = SimpleNamespace(site=local_site, site_settings=local_site.settings)
    lane = make_lane(tmp_path, "planted")
    found = Witness(stack, lane)
    local_site.ssh(f"rm -rf .edge-training; mkdir -p {GRANT_FOLDER} .edge-training/work/run-1/data")
    return found


def wrong(witness: Witness, before: Evidence, **told: str) -> list[str]:
    return judge(Told("success", **told), witness.look(DAG_RUN).since(before))


def found(sentences: list[str], words: str) -> bool:
    return any(words in sentence for sentence in sentences)


def test_a_grant_that_is_left_is_found_and_that_of_another_dag_run_is_not(
    witness: Witness, local_site: RunningSite
) -> None:
    mine, other = grant_name("edge_training_planted", DAG_RUN), grant_name("edge_training_planted", "chaos_2")
    before = witness.look(DAG_RUN)
    assert before.left == ()
    local_site.ssh(f"touch {GRANT_FOLDER}/{mine} {GRANT_FOLDER}/{other}")
    assert witness.look(DAG_RUN).left == (mine,)
    assert found(wrong(witness, before), f"{mine} is left on the VM")


def test_data_of_a_run_that_lives_no_more_is_found_and_that_of_one_that_goes_on_is_not(
    witness: Witness, local_site: RunningSite
) -> None:
    folder = ".edge-training/work/run-1"
    local_site.ssh(f"touch {folder}/lock {folder}/data/2026-01.csv")
    assert witness.look(DAG_RUN).left == (f"{folder[len('.edge-training/') :]}/data/2026-01.csv",)
    local_site.ssh(f"(flock -n 9 && sleep 60 9>&9) 9>{folder}/lock >/dev/null 2>&1 & echo $! >pid; sleep 0.3")
    assert witness.look(DAG_RUN).left == ()
    local_site.ssh("pkill -P $(cat pid); rm -r pid .edge-training")


def test_a_run_that_goes_on_and_a_second_version_are_found(
    witness: Witness, local_site_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings.simplefilter("ignore")
    monkeypatch.chdir(tmp_path)  # the SDK takes files of the working directory only
    from azureml.core import Experiment, Model

    before = witness.look(DAG_RUN)
    workspace = workspace_of(local_site_env)
    run = Experiment(workspace, "planted").start_logging(snapshot_directory=None)
    model = tmp_path / "model.onnx"
    model.write_text("a model")
    for _ in range(2):
        Model.register(workspace, model_path=str(model), model_name="planted")
    sentences = wrong(witness, before, run_id=run.id)
    run.complete()
    assert found(sentences, f"run {run.id} is still Running")
    assert found(sentences, "2 model versions where one is enough: planted:1, planted:2")
    second = Experiment(workspace, "planted").start_logging(snapshot_directory=None)
    second.complete()
    assert found(wrong(witness, before), "2 completed runs where one is enough")


def test_a_second_image_is_found_and_what_refers_to_an_image_is_none(
    witness: Witness, local_site_env: dict[str, str]
) -> None:
    before = witness.look(DAG_RUN)
    first, second = push(local_site_env, "v1", "first"), push(local_site_env, "v2", "second")
    push(local_site_env, "sha256-aa", "parts", subject={"digest": first, "mediaType": OCI_MANIFEST, "size": 1})
    push(local_site_env, "serving-0123", "what both share")
    new = witness.look(DAG_RUN).since(before)
    assert new.images == {first.removeprefix("sha256:"), second.removeprefix("sha256:")}
    assert set(new.tags) == {"v1", "v2"}
    assert found(judge(Told("success"), new), "2 images where one is enough")


def workspace_of(env: dict[str, str]) -> Any:
    from azureml.core import Workspace
    from azureml.core.authentication import ServicePrincipalAuthentication

    login = ServicePrincipalAuthentication(
        env["LOCAL_SITE_TENANT_ID"],
        env["LOCAL_SITE_CLIENT_ID"],
        env["LOCAL_SITE_CLIENT_SECRET"],
        cloud=env["AZUREML_CURRENT_CLOUD"],
    )
    names = ("LOCAL_SITE_SUBSCRIPTION_ID", "LOCAL_SITE_RESOURCE_GROUP", "LOCAL_SITE_WORKSPACE")
    return Workspace(*(env[name] for name in names), auth=login)


def push(env: dict[str, str], tag: str, title: str, **more: Any) -> str:
    """Push a manifest without layers to the lane's repository, and return its digest."""
    config = b"{}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [],
        "annotations": {"title": title},
        **more,
    }
    body = json.dumps(manifest).encode()
    with requests.Session() as session:
        session.trust_env, session.verify = False, env["LOCAL_SITE_CA"]
        session.auth = (env["LOCAL_SITE_REGISTRY_USER"], env["LOCAL_SITE_REGISTRY_PASSWORD"])
        root = f"https://{env['LOCAL_SITE_REGISTRY']}/v2/models/planted"
        upload = session.post(f"{root}/blobs/uploads/", timeout=30).headers["Location"]
        session.put(upload, params={"digest": digest_of(config)}, data=config, timeout=30).raise_for_status()
        headers = {"Content-Type": OCI_MANIFEST}
        session.put(f"{root}/manifests/{tag}", data=body, headers=headers, timeout=30).raise_for_status()
    return digest_of(body)
