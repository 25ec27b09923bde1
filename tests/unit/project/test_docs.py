"""The documents name what exists, and all that a person can set."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from edge_training.hooks import azure_ml
from edge_training.hooks.container_registry import ContainerRegistryHook
from edge_training.hooks.residency_key import ResidencyKeyHook
from edge_training.hooks.resource_manager import ResourceManagerHook
from edge_training.hooks.serving_host import ServingHostHook
from edge_training.hooks.stack_hub_blob import StackHubBlobHook
from edge_training.hooks.training_vm import TrainingVMHook
from edge_training.pipeline import build_dag
from edge_training.site import load_site

PROJECT = Path(__file__).resolve().parents[3]
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
README = (PROJECT / "README.md").read_text()
OPERATING = (PROJECT / "docs/operating.md").read_text()
TASKS = sorted(build_dag(load_site(PROJECT / "include/sites/local.yaml")).task_ids)
SETTING = re.compile(r"\b(?:LOCAL_SITE|DEMO|AIRFLOW_UI|EDGE_TRAINING|TEST)_[A-Z_]+\b")


def settings_of_the_code() -> set[str]:
    """Return the settings that a person may set: what the code looks up and does not itself export."""
    names = (
        "Makefile",
        "include/local_site/settings.py",
        "include/demo/settings.py",
        "plugins/edge_training/pipeline.py",
        "plugins/edge_training/phases.py",
    )
    files = [PROJECT / name for name in (*names, "plugins/edge_training/operators/serving.py")]
    found = {name for file in files for name in SETTING.findall(file.read_text())}
    exported = {
        match
        for file in files
        for match in re.findall(r'"(LOCAL_SITE_[A-Z_]+)": ', file.read_text())
        if not match.endswith("_PORT")
    }
    return found - exported - {"LOCAL_SITE_VM_PORT"}


def settings_of_the_documents() -> set[str]:
    return set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))


def test_the_table_of_settings_has_exactly_those_that_the_code_reads() -> None:
    assert settings_of_the_documents() == settings_of_the_code()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_setting_that_a_document_mentions_exists(document: Path) -> None:
    known = settings_of_the_code()
    assert set(SETTING.findall(document.read_text())) <= known


def test_default_ports_are_those_of_the_code() -> None:
    code = (PROJECT / "include/local_site/settings.py").read_text() + (PROJECT / "include/demo/settings.py").read_text()
    ports = re.findall(r"^\| `([A-Z_]+_PORT)` \| (\d+) \|", README, re.MULTILINE)
    assert len(ports) == 6
    for name, port in ports:
        symbol = "PORT_SETTING" if name == "AIRFLOW_UI_PORT" else f'"{name}"'
        assert re.search(rf"{symbol}\W+(?:env, )?{port}\b", code), name


@pytest.mark.parametrize("document", [*DOCUMENTS, *sorted((PROJECT / "include").glob("*/**/README.md"))], ids=str)
def test_a_linked_file_exists(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_path_that_a_document_names_exists(document: Path) -> None:
    for path in re.findall(r"`((?:dags|plugins|include|tests|docs)/[\w./-]*)`", document.read_text()):
        assert (PROJECT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_make_command_that_a_document_names_exists(document: Path) -> None:
    listed = subprocess.run(["make"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", document.read_text())) <= known


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_in_the_readme_and_has_a_place_in_the_operating_guide(task: str) -> None:
    assert f"`{task}`" in README
    assert re.search(rf"^### .*\b{task}\b", OPERATING, re.MULTILINE)


def test_every_error_that_can_end_a_task_is_in_the_operating_guide() -> None:
    from edge_training import exceptions

    roots = {"EdgeTrainingError", "RunError"}
    names = {name for name in vars(exceptions) if name.endswith("Error")} - roots
    assert {name for name in names if f"`{name}`" not in OPERATING} == set()


@pytest.mark.parametrize(
    ("conn_id", "extras"),
    [
        ("stack_hub_blob", StackHubBlobHook.extras),
        ("training_vm", TrainingVMHook.extras),
        ("serving_host", ServingHostHook.extras),
        ("azure_ml", frozenset(azure_ml.EXTRAS)),
        ("container_registry", ContainerRegistryHook.extras),
        ("resource_manager", ResourceManagerHook.extras),
        ("residency_key", ResidencyKeyHook.extras),
    ],
)
def test_the_readme_has_exactly_the_extras_that_a_connection_may_have(conn_id: str, extras: frozenset[str]) -> None:
    (row,) = re.findall(rf"^\| `{conn_id}` \|.*\|([^|]*)\|$", README, re.MULTILINE)
    named = set(re.findall(r"`([a-z_]+)`", row))
    assert named == set(extras)


def test_every_connection_of_the_settings_file_is_explained() -> None:
    content = yaml.safe_load((PROJECT / "airflow_settings.yaml").read_text())
    for entry in content["airflow"]["connections"]:
        assert f"| `{entry['conn_id']}` | `{entry['conn_type']}` |" in README
