"""Who may import whom: the rules that keep the parts of this project apart."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]
PLUGIN = PROJECT / "plugins/edge_training"
# Slow to import: only inside functions, never when a DAG is parsed.
HEAVY = {"azureml", "sklearn", "skl2onnx", "onnx", "onnxruntime", "numpy"}
PURE = (
    "residency",
    "images",
    "deployment",
    "records",
    "exceptions",
    "lifecycle",
    "lineage",
    "grants",
    "blob_checks",
    "vm_checks",
)
# Which modules of `edge_training` each layer must not know: those above it.
ABOVE = {
    "hooks": ("operators", "triggers", "pipeline", "site"),
    "triggers": ("operators", "pipeline", "site"),
    "operators": ("pipeline", "site"),
}


@dataclass(frozen=True)
class Import:
    """One import statement.

    :param module: what is imported, with dots.
    :param at_import: whether it happens when the file itself is imported.
    """

    file: Path
    line: int
    module: str
    at_import: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(PROJECT)}:{self.line} imports {self.module}"

    def is_of(self, *packages: str) -> bool:
        return any(self.module == package or self.module.startswith(f"{package}.") for package in packages)


def imports(*folders: str) -> list[Import]:
    found = [one for folder in folders for file in python_files(PROJECT / folder) for one in imports_of(file)]
    assert found, f"There is not one import in {folders}: the test looks in the wrong place."
    return found


def python_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imports_of(file: Path) -> Iterator[Import]:
    yield from _walk(file, ast.parse(file.read_text(), str(file)), at_import=True)


def _walk(file: Path, node: ast.AST, *, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(file, child.lineno, alias.name, at_import)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{file}:{child.lineno} imports relatively."
            for alias in child.names:
                yield Import(file, child.lineno, f"{child.module}.{alias.name}", at_import)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for branch in child.orelse:
                yield from _walk(file, branch, at_import=at_import)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _walk(file, child, at_import=at_import and not inside)


def offenders(found: list[Import], *packages: str) -> list[str]:
    return [str(one) for one in found if one.is_of(*packages)]


def layer(name: str) -> str:
    path = PLUGIN / name
    return str((path if path.is_dir() else path.with_suffix(".py")).relative_to(PROJECT))


def test_dags_know_the_pipeline_and_the_sites_and_nothing_else_of_ours() -> None:
    ours = [one for one in imports("dags") if one.is_of("edge_training", "local_site", "demo")]
    assert [str(one) for one in ours if not one.is_of("edge_training.pipeline", "edge_training.site")] == []


@pytest.mark.parametrize("name", sorted(ABOVE))
def test_no_layer_of_the_plugin_knows_the_layers_above_it(name: str) -> None:
    assert offenders(imports(layer(name)), *(f"edge_training.{above}" for above in ABOVE[name])) == []


def test_the_pipeline_wires_operators_and_asks_no_service_itself() -> None:
    found = imports(layer("pipeline"))
    assert (
        offenders(found, "edge_training.hooks", "edge_training.images", "azure", "azureml", "requests", "paramiko")
        == []
    )


@pytest.mark.parametrize("name", PURE)
def test_the_pure_parts_need_neither_airflow_nor_azure(name: str) -> None:
    forbidden = (
        "airflow",
        "azure",
        "azureml",
        "edge_training.hooks",
        "edge_training.operators",
        "edge_training.triggers",
    )
    assert offenders(imports(layer(name)), *forbidden) == []


def test_the_pipeline_does_not_know_that_there_is_a_local_site() -> None:
    assert offenders(imports("plugins", "dags"), "local_site", "demo", "airflow_settings") == []
    for file in [*python_files(PROJECT / "plugins"), *python_files(PROJECT / "dags")]:
        assert "local_site" not in file.read_text().lower(), file


def test_the_local_site_knows_nothing_of_the_pipeline() -> None:
    assert (
        offenders(imports("include/local_site"), "edge_training", "airflow", "demo", "airflow_settings", "edge_run")
        == []
    )


def test_training_scripts_know_nothing_of_the_pipeline_and_of_the_local_site() -> None:
    assert offenders(imports("include/training_scripts"), "edge_training", "airflow", "local_site", "demo") == []


def test_the_runner_on_the_vm_needs_the_standard_library_and_for_reporting_the_azure_ml_sdk() -> None:
    own = {"edge_run", *(file.stem for file in python_files(PROJECT / "include/training_scripts/edge_run"))}
    for one in imports("include/training_scripts/edge_run"):
        package = one.module.partition(".")[0]
        reporting = package == "azureml" and not one.at_import
        assert package in sys.stdlib_module_names or package in own or reporting, str(one)


def test_slow_packages_are_imported_inside_functions_only() -> None:
    # A training script is a program of its own: it imports what it trains with.
    scripts = {"train.py", "score.py"}
    found = [one for one in imports("plugins", "dags", "include") if one.at_import and one.file.name not in scripts]
    assert offenders(found, *HEAVY) == []


def test_the_plugin_loader_is_told_to_leave_the_package_alone() -> None:
    assert (PROJECT / "plugins/.airflowignore").read_text().split() == ["edge_training/**"]


def test_an_import_in_a_type_checking_block_or_in_a_function_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(
        "import a\nfrom b import c\nif TYPE_CHECKING:\n    import d\nclass K:\n    import e\n    def f(self):\n        import g\n"
    )
    found = [(one.module, one.at_import) for one in imports_of(file)]
    assert found == [("a", True), ("b.c", True), ("e", True), ("g", False)]
