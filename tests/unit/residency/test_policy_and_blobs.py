"""The site's policy travels with the code and is part of its digest; a training blob does not, under whatever name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from edge_run.policy import Policy, load_policy
from edge_training import phases
from edge_training.exceptions import ConfigurationError, ResidencyError
from edge_training.records import BlobItem, BlobManifest
from edge_training.residency.code import code_manifest, refuse_blobs, stage_source
from edge_training.site import SiteConfig, load_site

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).resolve().parents[3]
LOCAL = yaml.safe_load((PROJECT / "include/sites/local.yaml").read_text())


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., Path]:
    """Lay out a snapshot of a small project: ``stage({"train.py": b"..."}, policy={...})``."""

    def lay_out(files: dict[str, bytes] | None = None, policy: dict[str, Any] | None = None) -> Path:
        number = len(list(tmp_path.iterdir()))
        for name, content in {"train.py": b"print(1)\n", **(files or {})}.items():
            path = tmp_path / f"{number}" / "project" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        runner = tmp_path / f"{number}" / "edge_run"
        runner.mkdir()
        (runner / "__main__.py").write_text("print(2)\n")
        target = tmp_path / f"{number}" / "out" / "snapshot"
        stage_source(tmp_path / f"{number}" / "project", runner, target, policy)
        return target

    return lay_out


def test_a_policy_is_a_file_of_the_snapshot_that_the_runner_reads_and_the_digest_covers(
    stage: Callable[..., Path],
) -> None:
    plain = code_manifest(stage(), "p")
    strict = stage(policy={"model_bytes": 2048, "model_files": ("net.onnx",)})
    changed = code_manifest(strict, "p")
    assert {file.path for file in changed.files} - {file.path for file in plain.files} == {"policy.json"}
    assert len({plain.digest, changed.digest, code_manifest(stage(policy={"model_bytes": 4096}), "p").digest}) == 3
    read = load_policy(strict)
    assert (read.model_bytes, read.model_files) == (2048, ("net.onnx",))
    assert load_policy(stage()) == Policy()


def manifest(*contents: bytes, algorithm: str = "sha256") -> BlobManifest:
    blobs = tuple(
        BlobItem(f"{n}.csv", len(one), '"e"', f"{algorithm}:{hashlib.new(algorithm, one).hexdigest()}", "2026-11-21")
        for n, one in enumerate(contents)
    )
    return BlobManifest("https://a.blob.b.c", "data", "", ("a",), blobs)


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_training_blob_is_found_by_size_and_hash(stage: Callable[..., Path], algorithm: str) -> None:
    blob = b"a,b\n1.5,2.5\n"
    folder = stage({"lib/constants.py": blob})
    with pytest.raises(ResidencyError, match=r"project/lib/constants.py .* is a training blob"):
        refuse_blobs(folder, manifest(b"other", blob, algorithm=algorithm))
    refuse_blobs(folder, manifest(b"other", blob + b"\n", algorithm=algorithm))
    refuse_blobs(stage({"__init__.py": b""}), manifest(b"", algorithm=algorithm))  # an empty file is nobody's data


def site(residency: dict[str, Any], model_file: str = "model.onnx") -> SiteConfig:
    return SiteConfig.model_validate({**LOCAL, "residency": residency, "model": {**LOCAL["model"], "file": model_file}})


def test_a_site_may_leave_out_all_of_it_and_the_defaults_are_the_strict_ones() -> None:
    residency = SiteConfig.model_validate(
        {name: value for name, value in LOCAL.items() if name != "residency"}
    ).residency
    assert (residency.key, residency.container, residency.connection) == ("residency_key", "residency-receipts", None)
    assert residency.platform_files == ()
    assert residency.delete_foreign_artifacts is False


def test_a_model_of_another_name_is_named_to_the_gate_unless_the_site_does_so_itself() -> None:
    assert phases._policy(site({})) == {}
    assert phases._policy(site({}, "net.onnx")) == {"model_files": ("net.onnx", "probe.json")}
    both = site({"policy": {"model_files": ["net.onnx", "probe.json"], "model_bytes": 4096}}, "net.onnx")
    assert phases._policy(both) == {"model_files": ("net.onnx", "probe.json"), "model_bytes": 4096}


@pytest.mark.parametrize(
    ("residency", "said"),
    [
        ({"platform_files": ["("]}, "regular expression"),
        ({"policy": {"model_bytes": {}}}, "policy"),
        ({"policy": {"Model Bytes": 1}}, "policy"),
        ({"container": "No"}, "container"),
        ({"more": 1}, "unknown field"),
    ],
)
def test_a_mistake_in_the_site_file_is_named(tmp_path: Path, residency: dict[str, Any], said: str) -> None:
    path = tmp_path / "local.yaml"
    path.write_text(json.dumps({**LOCAL, "residency": residency}))
    with pytest.raises(ConfigurationError, match="residency") as caught:
        load_site(path)
    assert said in str(caught.value)


def test_every_kind_of_setting_that_the_runner_has_can_stand_in_a_site_file() -> None:
    values = {field.name: field.default for field in dataclasses.fields(Policy)}
    policy = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    assert phases._policy(site({"policy": policy})) == values
