"""The demo as a person runs it: interrupted once, run twice, broken once, ended. All of it real, on ports and state of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from demo import stack
from demo.metadata_database import MetadataDatabase
from demo.settings import DAG_ID, PROJECT
from local_site import data
from local_site.site import NAMES
from tests.running_site import RunningSite, free_ports
from tests.system import stored
from tests.system.machine import Machine, listening_addresses, living_processes

if TYPE_CHECKING:
    from collections.abc import Iterator

# The first test waits for three runs of the demo.
pytestmark = pytest.mark.timeout(900)

TASKS = (
    "verify_blob_data",
    "check_training_code",
    "resolve_base_image",
    "ensure_compute_attached",
    "grant_data_access",
    "scan_training_code",
    "submit_experiment",
    "poll_run",
    "audit_egress",
    "register_model",
    "prepare_serving_host",
    "build_and_push_image",
    "verify_image",
    "deploy_model",
    "revoke_data_access",
)


@dataclass(frozen=True)
class Story:
    """What came of each step; the steps build on each other, so they run once, in this order."""

    machine: Machine
    interrupted: subprocess.CompletedProcess[str]
    first: subprocess.CompletedProcess[str]
    first_facts: dict[str, Any]
    first_azure_ml: dict[str, Any]
    second: subprocess.CompletedProcess[str]
    second_facts: dict[str, Any]
    second_azure_ml: dict[str, Any]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    # Not pytest's folder: an ordinary account has to reach the VM's home in it.
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        (port,) = free_ports(1)
        variables = {"DEMO_STATE": folder, "AIRFLOW_UI_PORT": str(port)}
        found = Machine(RunningSite.on_free_ports(Path(folder) / "site"), variables)
        try:
            yield found
        finally:
            found.demo("down")


@pytest.fixture(scope="module")
def story(machine: Machine) -> Story:
    interrupted = interrupt_when_training_begins(machine)
    first = run_well(machine)
    first_facts, first_azure_ml = machine.facts(), machine.azure_ml()
    second = run_well(machine)
    return Story(machine, interrupted, first, first_facts, first_azure_ml, second, machine.facts(), machine.azure_ml())


def run_well(machine: Machine) -> subprocess.CompletedProcess[str]:
    done = machine.demo("run")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def interrupt_when_training_begins(machine: Machine) -> subprocess.CompletedProcess[str]:
    """Press Ctrl-C as soon as Airflow is up and the DAG run is there."""
    command = [sys.executable, "-m", "demo", "run"]
    lines = []
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**machine.environment, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "DAG run manual" in line:
                process.send_signal(signal.SIGINT)
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines), "")


def by_version(azure_ml: dict[str, Any]) -> dict[int, list[Any]]:
    """Return the models without the tags that say where they are in service, which move on."""
    found = {}
    for name, version, run_id, tags, created in azure_ml["models"]:
        lasting = {key: value for key, value in tags.items() if not key.startswith("deployed.")}
        found[version] = [name, version, run_id, lasting, created]
    return found


def test_an_interrupted_demo_says_what_to_do_and_can_simply_be_run_again(story: Story) -> None:
    assert story.interrupted.returncode == 130, story.interrupted.stdout
    assert "make demo` can simply be run again" in story.interrupted.stdout
    assert "was running already" in story.first.stdout


def test_it_shows_every_task_and_the_remote_training_log(story: Story) -> None:
    for task in TASKS:
        assert re.search(rf"\d:\d\d  {task} +success +[\d.]+ s", story.first.stdout), task
    remote = re.findall(r"^ +\d+:\d\d +\| (.*)$", story.first.stdout, re.MULTILINE)
    assert any("metric" in line and "roc_auc" in line for line in remote)
    assert len(remote) == len(set(remote)), "a line of the remote log was shown twice"


def test_its_summary_tells_what_its_facts_say(story: Story) -> None:
    facts = story.first_facts
    for value in (
        facts["data"]["fingerprint"],
        facts["run"]["id"],
        f"version {facts['model']['version']}",
        facts["image"]["reference"],
        facts["access"]["Airflow UI"],
        "pipeline tax",
    ):
        assert value in story.first.stdout, value


def test_its_facts_are_complete_and_for_their_owner_only(story: Story) -> None:
    facts = story.first_facts
    assert facts["data"]["blobs"] == 12
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", facts["data"]["fingerprint"])
    assert facts["run"]["state"] == "Completed"
    assert 0.95 <= facts["run"]["metrics"]["roc_auc"] <= 1
    assert [len(row) for row in facts["answer"]["body"]["probabilities"]] == [2, 2]
    assert facts["pipeline_tax_seconds"] > 0
    assert stat.S_IMODE(story.machine.settings.facts_file.stat().st_mode) == 0o600


def test_azure_ml_holds_the_run_and_the_model_that_the_facts_name(story: Story) -> None:
    facts, azure_ml = story.second_facts, story.second_azure_ml
    runs = {run_id: (status, metrics) for run_id, status, metrics in azure_ml["runs"]}
    status, metrics = runs[facts["run"]["id"]]
    assert status == "Completed"
    assert metrics["roc_auc"] == pytest.approx(facts["run"]["metrics"]["roc_auc"])
    newest = max(azure_ml["models"], key=lambda model: model[1])
    assert newest[:3] == [facts["model"]["name"], facts["model"]["version"], facts["run"]["id"]]
    assert facts["data"]["fingerprint"] in newest[3].values()


def test_a_second_demo_makes_the_next_version_and_leaves_the_earlier_ones_alone(story: Story) -> None:
    assert story.second_facts["model"]["version"] == story.first_facts["model"]["version"] + 1
    earlier, later = by_version(story.first_azure_ml), by_version(story.second_azure_ml)
    assert {version: later[version] for version in earlier} == earlier
    assert set(later) - set(earlier) == {story.second_facts["model"]["version"]}


def test_the_registry_holds_both_images_each_under_a_tag_of_its_own(story: Story) -> None:
    images = [story.first_facts["image"], story.second_facts["image"]]
    assert images[0]["tag"] != images[1]["tag"]
    for image in images:
        assert story.machine.registry_digest(image["repository"], image["tag"]) == image["digest"]


def test_the_newest_image_was_verified_and_is_in_service_instead_of_the_one_before(story: Story) -> None:
    first, second = story.first_facts, story.second_facts
    assert second["deployment"]["digest"] == second["image"]["digest"]
    assert second["deployment"]["previous"] == first["image"]["digest"]
    assert second["verification"]["isolation"] == "bubblewrap"
    where = second["deployment"]["where"]
    assert where == f"http://127.0.0.1:{story.machine.site.env['LOCAL_SITE_SERVING_PORT']}/score"
    sample = (PROJECT / "include/training_scripts/breast_cancer/sample_request.json").read_bytes()
    answer = requests.post(where, data=sample, headers={"Content-Type": "application/json"}, timeout=30)
    assert answer.json() == second["answer"]["body"]
    newest = {version: tags for name, version, run_id, tags, created in story.second_azure_ml["models"]}
    assert newest[second["model"]["version"]]["deployed.local.edge-host"].startswith(second["image"]["digest"])


def test_the_buttons_of_the_tasks_lead_to_the_run_the_model_and_the_image(story: Story) -> None:
    facts, machine = story.second_facts, story.machine
    run = f"{machine.settings.api_url}/api/v2/dags/{DAG_ID}/dagRuns/{facts['dag_run']}/taskInstances"
    links: dict[str, str] = {}
    for task in ("poll_run", "register_model", "build_and_push_image"):
        answer = requests.get(f"{run}/{task}/links", headers=machine.login(), timeout=10)
        assert answer.ok, answer.text
        links |= answer.json()["extra_links"]
    image, model = facts["image"], facts["model"]
    assert f"/runs/{facts['run']['id']}?wsid=" in links["Run in Azure ML Studio"]
    assert f"/model/{model['name']}:{model['version']}/details?wsid=" in links["Model in Azure ML Studio"]
    assert links["Image in the registry"].endswith(f"/v2/{image['repository']}/manifests/{image['digest']}")
    plugins = requests.get(f"{machine.settings.api_url}/api/v2/plugins", headers=machine.login(), timeout=10).json()
    assert "edge_training" in {plugin["name"] for plugin in plugins["plugins"]}


def test_everything_listens_on_this_machine_only(story: Story) -> None:
    processes = story.machine.processes()
    assert len(processes) > len(stack.NAMES) + len(NAMES)
    assert listening_addresses(processes) == {"127.0.0.1"}


def test_status_names_every_process(story: Story) -> None:
    done = story.machine.demo("status")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*stack.NAMES, *NAMES]


def test_secrets_can_be_read_by_their_owner_only(story: Story) -> None:
    home = story.machine.settings.airflow_home
    for name in ("secrets.json", "passwords.json"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name
    (database,) = home.glob("pg-*")
    assert stat.S_IMODE(database.stat().st_mode) == 0o700


def test_what_the_tasks_logged_names_no_secret(story: Story) -> None:
    env = story.machine.site.env
    secrets = [
        env[name] for name in ("LOCAL_SITE_BLOB_KEY", "LOCAL_SITE_CLIENT_SECRET", "LOCAL_SITE_REGISTRY_PASSWORD")
    ]
    logs = list((story.machine.settings.airflow_home / "logs").rglob("*.log"))
    assert any(DAG_ID in str(path) for path in logs)
    for path in logs:
        text = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], path


def test_nothing_that_was_stored_tells_a_secret_or_a_row_of_the_data(story: Story) -> None:
    """All that Airflow, Azure ML, the registry and the store of receipts keep; the VM's key is where Azure too keeps it: in its compute."""
    site, demo = story.machine.site.settings, story.machine.settings
    env = story.machine.site.env
    secrets = {
        name: env[name] for name in ("LOCAL_SITE_BLOB_KEY", "LOCAL_SITE_CLIENT_SECRET", "LOCAL_SITE_REGISTRY_PASSWORD")
    }
    keys = {name: Path(env[name]).read_text() for name in ("LOCAL_SITE_VM_KEY_FILE", "LOCAL_SITE_RESIDENCY_KEY_FILE")}
    # The middle of a key is its secret part, in any quoting.
    secrets |= {name: text.splitlines()[3] for name, text in keys.items()}
    secrets["a signed address"] = "sp=r&spr=https"
    tables = [content for name, content in data.blobs().items() if name.endswith(".csv")]
    needles = stored.Needles.of(secrets, tables)
    azure_ml = site.state / "azure_ml"
    places = [
        *stored.files_below(demo.airflow_home / "logs"),
        *stored.files_below(demo.process_logs),
        *stored.rows_of_sql(MetadataDatabase(demo).url),
        *stored.rows_of_sqlite(azure_ml / "state.sqlite3", left_out=["computes"]),
        *stored.files_below(azure_ml / "blobs"),
        *stored.files_below(azure_ml, "journal*"),
        *stored.files_below(site.state / "registry" / "data"),
        *stored.files_below(site.state / "logs", "[!b]*"),  # the blob store's own log is the Stack Hub's
    ]
    assert {"table xcom", "table task_instance", "table runs", "table metric_values"} <= {place for place, _ in places}
    found = [one for place, content in places for one in stored.findings(place, content, needles)]
    assert found == []


def test_a_failing_task_ends_the_demo_with_its_own_words(story: Story) -> None:
    machine = story.machine
    url = machine.settings.api_url
    answer = requests.delete(f"{url}/api/v2/connections/container_registry", headers=machine.login(), timeout=10)
    answer.raise_for_status()
    before = machine.facts()
    done = machine.demo("run")
    assert done.returncode == 1, done.stdout
    assert re.search(r"resolve_base_image +failed", done.stdout)
    assert "ConfigurationError" in done.stdout
    assert "container_registry" in done.stdout
    assert machine.facts() == before, "a demo that failed has written facts"


def test_a_busy_port_is_named_with_its_setting_and_nothing_is_started(machine: Machine) -> None:
    with tempfile.TemporaryDirectory(prefix="demo-") as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        site = RunningSite.on_free_ports(Path(folder) / "site")
        other = Machine(site, {"DEMO_STATE": folder, "AIRFLOW_UI_PORT": port})
        done = other.demo("run")
        assert done.returncode == 1
        assert port in done.stderr
        assert "AIRFLOW_UI_PORT" in done.stderr
        assert other.processes() == set()


def test_down_leaves_no_process_and_no_port_and_can_be_repeated(story: Story) -> None:
    machine = story.machine
    processes = machine.processes()
    assert processes
    done = machine.demo("down")
    assert done.returncode == 0, done.stderr
    assert not processes & living_processes()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", machine.settings.ui_port)) != 0
    assert machine.demo("status").returncode == 3
    assert machine.demo("down").stdout == "Nothing was running.\n"


@pytest.mark.parametrize("value", ["0", "70000", "http"])
def test_a_port_that_is_none_is_named(value: str) -> None:
    env = {**os.environ, "AIRFLOW_UI_PORT": value, "PYTHONPATH": str(PROJECT / "include")}
    done = subprocess.run(
        [sys.executable, "-m", "demo", "status"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"AIRFLOW_UI_PORT is '{value}'" in done.stderr
