"""The server alone: started, asked and controlled from a shell, as a person would."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.azure_ml.scripts import WAITS, alive, log_of
from tests.integration.azure_ml.servers import INCLUDE, AzureML, free_port, wait_for
from tests.integration.azure_ml.web import Http, error_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.azure_ml.sdk import Sdk

PROGRAM = [sys.executable, "-m", "local_site.azure_ml"]
OPENS = """
import os
from azureml.core import Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
env = os.environ
login = ServicePrincipalAuthentication(
    env["LOCAL_SITE_TENANT_ID"], env["LOCAL_SITE_CLIENT_ID"], env["LOCAL_SITE_CLIENT_SECRET"], cloud="AmlLocal")
names = env["LOCAL_SITE_SUBSCRIPTION_ID"], env["LOCAL_SITE_RESOURCE_GROUP"], env["LOCAL_SITE_WORKSPACE"]
print(Workspace(*names, auth=login).name)
"""


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which nothing points at another server."""
    hidden = ("LOCAL_SITE_", "AZUREML_", "ARM_", "AZURE_", "REQUESTS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {**kept, "PYTHONPATH": str(INCLUDE), **more}


def control(server: AzureML, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``control`` for a server."""
    command = [*PROGRAM, "control", "--state", str(server.state), "--port", str(server.port), *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def test_a_state_folder_and_a_port_are_all_that_the_server_needs(tmp_path: Path) -> None:
    where = ["--state", str(tmp_path / "state"), "--port", str(free_port())]
    with subprocess.Popen([*PROGRAM, *where], env=environment(), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = [shlex.split(server.stdout.readline())[1] for _ in range(11)]
        printed = dict(line.split("=", 1) for line in lines)
        again = subprocess.run([*PROGRAM, "env", *where, "--json"], env=environment(), capture_output=True, check=True)
        assert json.loads(again.stdout) == printed
        home = environment(HOME=str(tmp_path), **printed)
        opened = subprocess.run([sys.executable, "-c", OPENS], env=home, capture_output=True, text=True, check=False)
        server.send_signal(signal.SIGTERM)
    assert opened.stdout.strip() == "edge-workspace", opened.stderr


def test_half_a_set_of_tls_files_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    where = ["--state", str(tmp_path / "state"), "--port", str(free_port())]
    done = subprocess.run([*PROGRAM, *where, "--cert", "x.pem"], env=environment(), capture_output=True, check=False)
    assert (done.returncode, b"give all three, or none" in done.stderr) == (2, True)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"runs_per_vm": "two"}, "runs_per_vm is 'two'; it must be a whole number above 0"),
        ({"token_seconds": 0}, "token_seconds is 0"),
        ({"workspace": 7}, "workspace is 7; it must be text"),
        ({"colour": "red"}, "names colour"),
        ({"registry": {"address": "x"}}, "registry must have these texts"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    where = ["--state", str(tmp_path / "state"), "--port", "1", "--settings", str(tmp_path / "settings.json")]
    done = subprocess.run([*PROGRAM, *where], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, named in done.stderr) == (2, True), done.stderr


def test_a_person_arranges_a_fault_and_reads_it_in_the_journal(server: AzureML, http: Http) -> None:
    assert control(server, "fault", "status", "/experiments/by-hand$", "--status", "418").returncode == 0
    assert '"calls": 1' in control(server, "faults").stdout
    assert http.call("GET", "/history/v1.0{W}/experiments/by-hand").status_code == 418
    assert "418" in control(server, "journal", "--last", "1").stdout
    assert "/experiments/by-hand  [status]" in control(server, "journal").stdout
    refused = control(server, "fault", "explode", "x")
    assert (refused.returncode, "There is no fault 'explode'" in refused.stderr) == (1, True)
    control(server, "journal", "--clear")
    assert control(server, "journal").stdout == ""


def test_control_says_when_nothing_answers(tmp_path: Path) -> None:
    server = AzureML(tmp_path)
    server.start()
    server.end()
    done = control(server, "queue")
    assert (done.returncode, "Nothing answers" in done.stderr) == (2, True)


def test_how_long_tokens_are_good_is_changed_and_survives_a_restart(tmp_path: Path) -> None:
    server = AzureML(tmp_path)
    server.start()
    try:
        http = Http(server)
        old = http.token()
        assert control(server, "tokens", "--client-seconds", "1").returncode == 0
        server.kill_and_restart()
        short = http.log_in().json()
        assert short["expires_in"] == 1
        assert http.call("GET", "{W}/computes", token=old).status_code == 200
        control(server, "tokens", "--client-seconds", "60", "--revoke")
        server.kill_and_restart()
        assert error_of(http.call("GET", "{W}/computes", token=old))[:2] == (401, "ExpiredAuthenticationToken")
        assert http.call("GET", "{W}/computes").status_code == 200
    finally:
        server.end()


def test_the_sdk_gets_a_new_token_when_its_own_was_revoked(sdk: Sdk, server: AzureML) -> None:
    from azureml.exceptions import ProjectSystemException, ServiceException

    control(server, "tokens", "--revoke")
    with pytest.raises((ServiceException, ProjectSystemException), match="revoked"):
        sdk.workspace.get_run("any")
    sdk.workspace = sdk.log_in()
    assert sdk.workspace.experiments is not None


def test_a_run_is_put_into_a_state_by_hand_and_its_processes_end(sdk: Sdk, server: AzureML, tmp_path: Path) -> None:
    run = sdk.submit(tmp_path / "src", WAITS, "by-hand", tmp_path / "release")
    child = int(wait_for(lambda: log_of(run), "the first log line").split()[1])
    done = control(server, "run", "by-hand", "Failed", "--code", "Preempted", "--message", "The machine was needed.")
    assert done.returncode == 0, done.stderr
    details = run.get_details()
    assert (details["status"], details["error"]["error"]["code"]) == ("Failed", "Preempted")
    wait_for(lambda: not alive(child), "the end of the processes")
    wait_for(lambda: not server.control("GET", "/_control/queue")["active"], "the end of the run")
    assert run.get_status() == "Failed"
    (tmp_path / "release").touch()
    assert control(server, "run", "by-hand", "Queued").returncode == 0
    assert sdk.ended(run)["status"] == "Completed"
    assert log_of(run).count("child") == 1
    assert control(server, "run", "by-hand", "Sleeping").returncode == 1
    assert control(server, "run", "no-such-run", "Failed").returncode == 1


def test_an_interactive_run_can_be_moved_but_not_queued(sdk: Sdk, server: AzureML) -> None:
    from azureml.core import Experiment

    run = Experiment(sdk.workspace, "by-hand").start_logging(snapshot_directory=None)
    assert control(server, "run", run.id, "Canceled").returncode == 0
    assert run.get_status() == "Canceled"
    refused = control(server, "run", run.id, "Queued")
    assert (refused.returncode, "was not submitted" in refused.stderr) == (1, True)
    assert control(server, "run", run.id, "Running").returncode == 0
    moved = sdk.workspace.get_run(run.id)  # the SDK's object believes that an end is for ever
    assert moved.get_status() == "Running"
    moved.complete()


def test_a_reset_ends_the_runs_and_leaves_nothing_but_snapshots(sdk: Sdk, server: AzureML, tmp_path: Path) -> None:
    runs = [sdk.submit(tmp_path / "src", WAITS, f"reset-{number}", tmp_path / "release") for number in range(3)]
    child = int(wait_for(lambda: log_of(runs[0]), "the first log line").split()[1])
    assert control(server, "reset").returncode == 0
    assert not alive(child)
    sdk.workspace = sdk.log_in()
    assert sdk.workspace.compute_targets == {}
    assert sdk.workspace.experiments == {}
    assert sdk.workspace.models == {}
    assert not [name for name in sdk.vm.run_folders() if name.startswith("reset-")]
    sdk.attach("edge-vm")
    again = sdk.submit(tmp_path / "src", "print('after the reset')", "reset-0")
    assert sdk.ended(again)["status"] == "Completed"
    assert log_of(again) == "after the reset\n"
