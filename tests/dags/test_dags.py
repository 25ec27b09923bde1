"""Every site's DAG is whole before it reaches a scheduler."""

import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.definitions.context import _AIRFLOW_PARSING_CONTEXT_DAG_ID
from airflow.serialization.serialized_objects import DagSerialization

from edge_training import pipeline

PROJECT = Path(__file__).parents[2]
TASKS = {
    "verify_blob_data",
    "check_training_code",
    "resolve_base_image",
    "ensure_compute_attached",
    "grant_data_access",
    "scan_training_code",
    "submit_experiment",
    "poll_run",
    "revoke_data_access",
    "audit_egress",
    "register_model",
    "prepare_serving_host",
    "build_and_push_image",
    "verify_image",
    "deploy_model",
}
LOCAL_SITE = (PROJECT / "include" / "sites" / "local.yaml").read_text()


def parse(folder: Path) -> DagBag:
    return DagBag(dag_folder=str(folder), collect_dags=True)


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return parse(PROJECT / "dags")


@pytest.fixture(scope="module")
def dag(bag: DagBag) -> DAG:
    return bag.dags["edge_training_local"]


def test_every_site_file_is_a_dag_and_nothing_fails_to_import(bag: DagBag) -> None:
    sites = {f"edge_training_{path.stem}" for path in (PROJECT / "include" / "sites").glob("*.yaml")}
    assert bag.import_errors == {}
    by_hand = {
        site.replace("edge_training_", f"edge_training_{what}_") for site in sites for what in ("rollback", "retention")
    }
    assert set(bag.dags) == sites | by_hand | {"edge_training_janitor"}


def test_a_task_makes_its_own_dag_and_not_those_of_all_sites(bag: DagBag, monkeypatch: pytest.MonkeyPatch) -> None:
    for dag_id, dag in bag.dags.items():
        # So a task's process says which DAG it wants; Airflow's own function for it does not take it back.
        monkeypatch.setenv(_AIRFLOW_PARSING_CONTEXT_DAG_ID, dag_id)
        read = parse(PROJECT / "dags")
        assert set(read.dags) == {dag_id}
        assert read.dags[dag_id].task_dict.keys() == dag.task_dict.keys()


def test_the_pipeline_has_its_steps(dag: DAG) -> None:
    assert set(dag.task_ids) == TASKS


def test_every_task_has_an_owner_retries_a_policy_and_documentation(dag: DAG) -> None:
    for task in dag.tasks:
        assert task.owner == "edge-training"
        assert (task.retries or 0) >= 1
        assert task.retry_policy is not None
        assert task.execution_timeout is not None
        assert type(task).__doc__
    assert dag.doc_md is not None
    assert all(f"`{task_id}`" in dag.doc_md for task_id in TASKS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("verify_blob_data", "grant_data_access"),
        ("ensure_compute_attached", "grant_data_access"),
        ("check_training_code", "submit_experiment"),
        ("resolve_base_image", "submit_experiment"),
        ("grant_data_access", "scan_training_code"),
        ("check_training_code", "scan_training_code"),
        ("scan_training_code", "submit_experiment"),
        ("submit_experiment", "poll_run"),
        ("poll_run", "revoke_data_access"),
        ("poll_run", "audit_egress"),
        ("audit_egress", "register_model"),
        ("register_model", "build_and_push_image"),
        ("resolve_base_image", "prepare_serving_host"),
        ("prepare_serving_host", "build_and_push_image"),
        ("build_and_push_image", "verify_image"),
        ("verify_image", "deploy_model"),
    ],
)
def test_nothing_starts_before_what_it_stands_on(dag: DAG, before: str, after: str) -> None:
    assert before in dag.get_task(after).get_flat_relative_ids(upstream=True)


def test_the_grant_is_removed_also_when_training_fails(dag: DAG) -> None:
    assert dag.get_task("grant_data_access").is_setup
    assert dag.get_task("revoke_data_access").is_teardown


def test_what_left_is_audited_also_when_training_fails_and_then_nothing_is_registered(dag: DAG) -> None:
    assert dag.get_task("audit_egress").trigger_rule == "all_done"
    assert {"poll_run", "audit_egress"} <= dag.get_task("register_model").upstream_task_ids
    assert dag.get_task("register_model").trigger_rule == "all_success"


def test_the_dags_survive_serialisation(bag: DagBag) -> None:
    for dag in bag.dags.values():
        assert DagSerialization.from_dict(DagSerialization.to_dict(dag)).dag_id == dag.dag_id


def test_the_janitor_sweeps_every_site(bag: DagBag) -> None:
    janitor = bag.dags["edge_training_janitor"]
    sites = [path.stem for path in (PROJECT / "include" / "sites").glob("*.yaml")]
    assert set(janitor.task_ids) == {f"{does}_{site}" for site in sites for does in ("sweep", "audit")}
    assert all(janitor.task_dict[f"sweep_{site}"].downstream_task_ids == {f"audit_{site}"} for site in sites)
    assert janitor.schedule is not None
    assert all(task.retry_policy is not None for task in janitor.tasks)


@pytest.fixture
def bag_with_a_broken_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DagBag:
    (tmp_path / "broken.yaml").write_text(LOCAL_SITE.replace("minimum_blobs: 12", "minimum_blobs: a dozen"))
    (tmp_path / "local.yaml").write_text(LOCAL_SITE)
    monkeypatch.setattr(pipeline, "SITES", tmp_path)
    return parse(PROJECT / "dags")


@pytest.mark.parametrize(("what", "task_id"), [("rollback", "roll_back"), ("retention", "remove_old")])
def test_what_a_person_starts_has_a_form_and_the_tasks_that_all_have(bag: DagBag, what: str, task_id: str) -> None:
    dag = bag.dags[f"edge_training_{what}_local"]
    assert dag.task_ids == [task_id]
    assert dag.params
    assert dag.get_task(task_id).retry_policy is not None
    assert dag.doc_md is not None
    assert f"`{task_id}`" in dag.doc_md


def test_a_mistake_in_a_site_file_is_an_import_error_that_names_file_and_field(bag_with_a_broken_site: DagBag) -> None:
    ((path, error),) = bag_with_a_broken_site.import_errors.items()
    assert path.endswith("edge_training_site_mistakes.py")
    assert "broken.yaml: data.minimum_blobs: found 'a dozen', expected a whole number." in error


def test_a_mistake_in_a_site_file_leaves_the_other_sites_alone(bag_with_a_broken_site: DagBag) -> None:
    assert "edge_training_local" in bag_with_a_broken_site.dags
    assert "edge_training_broken" not in bag_with_a_broken_site.dags
    assert bag_with_a_broken_site.dags["edge_training_janitor"].task_ids == ["sweep_local", "audit_local"]


def test_parsing_imports_neither_the_azure_ml_sdk_nor_scikit_learn() -> None:
    program = (
        "import sys; from airflow.dag_processing.dagbag import DagBag; "
        f"bag = DagBag(dag_folder={str(PROJECT / 'dags')!r}, collect_dags=True); assert bag.dags, bag.import_errors; "
        "print([name for name in ('azureml.core', 'azureml', 'sklearn', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_plugin_loader_leaves_the_package_alone() -> None:
    # Airflow would import each of its modules a second time, by bare name, and hide the standard library's of the same name.
    assert (PROJECT / "plugins" / ".airflowignore").read_text().split() == ["edge_training/**"]
