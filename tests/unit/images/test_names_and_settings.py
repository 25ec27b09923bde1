from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.images.compose import BaseImage, RunSettings, compose
from edge_training.images.layers import LayerFile, write_layer
from edge_training.images.media_types import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, digest_of
from edge_training.images.model_image import ModelImageBuilder, ServedModel, scoring_code
from edge_training.images.references import Reference, parse_reference
from edge_training.images.tokens import Challenge
from edge_training.images.transport import Patience
from tests.unit.images.models import TINY_ONNX

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "sha256:" + "a" * 64
BASE = BaseImage(
    reference=f"acme.azurecr.io/base/python@{DIGEST}",
    repository="base/python",
    digest=DIGEST,
    platform="linux/amd64",
    layers=(Descriptor(OCI_LAYER_GZIP, DIGEST, 10),),
    config={
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["PATH=/bin", "A=old"], "Cmd": ["python3"], "Labels": {"kept": "yes"}, "User": "root"},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    },
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base/python:3.11", Reference("r.io", "base/python", "3.11")),
        ("python", Reference("r.io", "python", "latest")),
        (f"base/python@{DIGEST}", Reference("r.io", "base/python", "", DIGEST)),
        (f"base/python:3.11@{DIGEST}", Reference("r.io", "base/python", "3.11", DIGEST)),
        ("r.io/base/python:3.11", Reference("r.io", "base/python", "3.11")),
    ],
)
def test_a_reference_is_read_as_people_write_it(text: str, expected: Reference) -> None:
    assert parse_reference(text, "r.io") == expected
    assert parse_reference(str(expected), "r.io") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Base/Python",
        "base//python",
        "base:tag with space",
        "base@sha256:short",
        "base@",
        "127.0.0.1:1/base",
        "a" * 256,
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_reference(text, "r.io")


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        ('Basic realm="a"', "basic", {"realm": "a"}),
        (
            'Bearer realm="https://a/t",service="s, with comma",scope="repository:a/b:pull,push"',
            "bearer",
            {"realm": "https://a/t", "service": "s, with comma", "scope": "repository:a/b:pull,push"},
        ),
        ("", "", {}),
    ],
)
def test_what_a_registry_asks_for_is_understood(header: str, scheme: str, parameters: dict[str, str]) -> None:
    assert Challenge.parse(header) == Challenge(scheme, parameters)


def test_waits_grow_and_are_bounded() -> None:
    attempts = list(Patience(tries=5, first_wait=1, longest_wait=4).attempts())
    assert [attempt.seconds for attempt in attempts] == [1, 2, 4, 4, 4]
    assert [attempt.last for attempt in attempts] == [False, False, False, False, True]


def make_builder(folder: Path, **changes: object) -> ModelImageBuilder:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(TINY_ONNX)
    (folder / "score.py").write_text("def init(): ...\n")
    layer = write_layer(
        [LayerFile.of_bytes("opt/serving/f", b"1")], folder / "s.gz", root="opt/serving", created_by="s"
    )
    builder = ModelImageBuilder(
        base=BASE,
        serving=layer,
        code={"score.py": folder / "score.py"},
        model=ServedModel("tumour", 7, folder / "model.onnx", {"site": "ward-1", "code_digest": "sha256:c0de"}),
        scratch=folder,
    )
    return dataclasses.replace(builder, **changes)  # type: ignore[arg-type]  # fields of the builder


def test_an_image_built_twice_in_two_folders_has_one_digest(tmp_path: Path) -> None:
    first, second = make_builder(tmp_path / "a/b").build(), make_builder(tmp_path / "c").build()
    assert first.digest == second.digest == digest_of(first.manifest)
    assert first.config == second.config


def test_the_model_is_the_last_layer_and_lineage_stands_on_the_image(tmp_path: Path) -> None:
    image = make_builder(tmp_path / "a").build()
    manifest, config = json.loads(image.manifest), json.loads(image.config)
    assert manifest["mediaType"] == OCI_MANIFEST
    assert [entry["digest"] for entry in manifest["layers"]] == [
        DIGEST,
        *(layer.descriptor.digest for layer in image.layers),
    ]
    assert image.layers[-1].created_by == "model tumour version 7"
    assert config["rootfs"]["diff_ids"] == [DIGEST, *(layer.diff_id for layer in image.layers)]
    for labels in (config["config"]["Labels"], manifest["annotations"]):
        assert labels["edge-training.site"] == "ward-1"
        assert labels["edge-training.model"] == "tumour"
        assert labels["edge-training.model_version"] == "7"
    assert manifest["annotations"]["org.opencontainers.image.revision"] == "sha256:c0de"
    assert manifest["annotations"]["org.opencontainers.image.version"] == "7"


def test_the_image_runs_the_inference_server_as_an_ordinary_user(tmp_path: Path) -> None:
    run = json.loads(make_builder(tmp_path / "a").build().config)["config"]
    assert run["Entrypoint"][:3] == ["python3", "-m", "azureml_inference_server_http"]
    assert run["User"] == "65532:65532"
    assert run["ExposedPorts"] == {"5001/tcp": {}}
    assert "PATH=/opt/serving/bin:/bin" in run["Env"]
    assert "A=old" in run["Env"]
    assert "ORT_DISABLE_TELEMETRY=1" in run["Env"]
    assert run["Labels"]["kept"] == "yes"
    assert "Cmd" not in run


def test_a_base_whose_configuration_does_not_fit_its_layers_is_refused() -> None:
    torn = dataclasses.replace(BASE, config={"rootfs": {"diff_ids": []}})
    with pytest.raises(ImageError, match="is damaged"):
        compose(torn, (), RunSettings((), {}, (), "1:1", "/", 1))


def test_scoring_code_without_score_py_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"has no score\.py"):
        make_builder(tmp_path / "a", code={}).build()


def test_scoring_code_takes_files_and_folders_but_no_bytecode(tmp_path: Path) -> None:
    for name in ("score.py", "lib/a.py", "lib/__pycache__/a.pyc", "train.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("")
    assert set(scoring_code(tmp_path, ("score.py", "lib"))) == {"score.py", "lib/a.py"}


@pytest.mark.parametrize("name", ["none.py", "../outside.py", "link.py"])
def test_scoring_code_that_is_missing_or_outside_of_the_project_is_refused(tmp_path: Path, name: str) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "outside.py").write_text("")
    (project / "link.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(ConfigurationError, match="correct the path"):
        scoring_code(project, (name,))
