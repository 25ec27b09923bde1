"""Runs really run: on the VM, with the right environment, and they end for the reason they ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.integration.azure_ml.scripts import WAITS, alive, log_of
from tests.integration.azure_ml.servers import wait_for
from tests.integration.azure_ml.web import Http, error_of

if TYPE_CHECKING:
    from tests.integration.azure_ml.sdk import Sdk
    from tests.integration.azure_ml.servers import VirtualMachine

REPORTS = """
import os, pathlib, sys
from azureml.core import Run

run = Run.get_context()
print("arguments", sys.argv[1:], "colour", os.environ["COLOUR"], flush=True)
for step in range(3):
    run.log("accuracy", 0.5 + step / 10, step=step)
run.log_list("losses", [3, 2, 1])
run.log_row("point", x=1, y=2.5)
run.tag("reported", "yes")
pathlib.Path("outputs").mkdir()
pathlib.Path("outputs/model.bin").write_bytes(b"model" * 1000)
pathlib.Path("logs").mkdir()
pathlib.Path("logs/own.log").write_text("own")
pathlib.Path("outputs/link").symlink_to("/etc/passwd")
pathlib.Path("note.txt").write_text("note")
run.upload_file("notes/note.txt", "note.txt")
run.upload_folder("copied", "outputs")
run.complete()
"""


@pytest.fixture(scope="module")
def reported(sdk: Sdk, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the module one run that reported all there is."""
    folder = tmp_path_factory.mktemp("reports")
    tags, variables = {"site": "oslo"}, {"COLOUR": "sea green"}
    arguments = ("--rate", 0.1, "--name", 'it\'s "quoted" $HOME')
    run = sdk.submit(folder, REPORTS, "reports-1", *arguments, tags=tags, variables=variables)
    assert sdk.ended(run)["status"] == "Completed"
    return run


def test_a_run_gets_its_arguments_and_variables_as_they_were_given(reported: Any) -> None:
    assert "arguments ['--rate', '0.1', '--name', 'it\\'s \"quoted\" $HOME'] colour sea green" in log_of(reported)


def test_metrics_come_back_as_they_were_logged(reported: Any) -> None:
    metrics = reported.get_metrics()
    assert metrics["accuracy"] == [0.5, 0.6, 0.7]
    assert metrics["losses"] == [3, 2, 1]
    assert metrics["point"] == {"x": 1, "y": 2.5}
    assert reported.get_metrics("accuracy") == {"accuracy": [0.5, 0.6, 0.7]}
    assert reported.get_metrics("no such metric") == {}


def test_outputs_logs_and_what_the_script_uploaded_are_the_runs_files_and_links_are_not(reported: Any) -> None:
    names = set(reported.get_file_names())
    assert names >= {"outputs/model.bin", "logs/own.log", "notes/note.txt", "copied/model.bin", "user_logs/std_log.txt"}
    assert "outputs/link" not in names


def test_files_are_downloaded_one_by_one_and_by_prefix(reported: Any, tmp_path: Path) -> None:
    reported.download_file("outputs/model.bin", str(tmp_path / "one"))
    assert (tmp_path / "one").read_bytes() == b"model" * 1000
    reported.download_files(prefix="outputs", output_directory=str(tmp_path / "all"))
    assert [path.name for path in (tmp_path / "all" / "outputs").iterdir()] == ["model.bin"]


def test_a_missing_file_is_said_to_be_missing(reported: Any, tmp_path: Path) -> None:
    from azureml.exceptions import UserErrorException

    with pytest.raises(UserErrorException, match="no-such-file"):
        reported.download_file("outputs/no-such-file", str(tmp_path / "none"))


def test_a_run_says_what_it_was_and_when(reported: Any) -> None:
    details = reported.get_details()
    assert details["target"] == "edge-vm"
    assert details["startTimeUtc"] < details["endTimeUtc"]
    assert details["runDefinition"]["script"] == "main.py"
    assert reported.get_tags() == {"site": "oslo", "reported": "yes"}


def test_nothing_of_a_run_stays_on_the_vm(reported: Any, vm: VirtualMachine) -> None:
    assert reported.id not in vm.run_folders()


def test_the_log_grows_while_the_run_goes_on(sdk: Sdk, tmp_path: Path) -> None:
    run = sdk.submit(tmp_path / "src", WAITS, "grows", tmp_path / "release")
    first = wait_for(lambda: log_of(run), "the first log line")
    assert run.get_status() == "Running"
    (tmp_path / "release").touch()
    assert sdk.ended(run)["status"] == "Completed"
    assert log_of(run, len(first)) == "released\n"


def test_a_script_that_raises_fails_the_run_with_the_end_of_its_log(sdk: Sdk, tmp_path: Path) -> None:
    run = sdk.submit(tmp_path / "src", "raise ValueError('no columns')", "raises")
    details = sdk.ended(run)
    error = details["error"]["error"]
    assert (details["status"], error["code"]) == ("Failed", "UserError")
    assert "exited with status code 1" in error["message"]
    assert "ValueError: no columns" in error["message"]


def test_an_error_that_the_script_reported_itself_is_kept(sdk: Sdk, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom azureml.core import Run\n"
        "Run.get_context().fail(error_code='DataChanged', error_details='The blob 2026-10.csv has changed.')\nsys.exit(1)"
    )
    details = sdk.ended(sdk.submit(tmp_path / "src", script, "reports-its-error"))
    error = details["error"]["error"]
    assert (details["status"], error["code"]) == ("Failed", "DataChanged")
    assert "The blob 2026-10.csv has changed." in error["message"]


def test_a_script_that_is_killed_fails_the_run_and_the_signal_is_named(sdk: Sdk, tmp_path: Path) -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    details = sdk.ended(sdk.submit(tmp_path / "src", script, "is-killed"))
    assert details["status"] == "Failed"
    assert "status code 137 (killed by SIGKILL)" in details["error"]["error"]["message"]


def test_a_run_whose_whole_process_group_is_killed_fails(sdk: Sdk, tmp_path: Path) -> None:
    script = "import os, signal; os.killpg(0, signal.SIGKILL)"
    details = sdk.ended(sdk.submit(tmp_path / "src", script, "group-is-killed"))
    assert (details["status"], details["error"]["error"]["code"]) == ("Failed", "RunLost")


def test_cancel_ends_every_process_of_the_run(sdk: Sdk, vm: VirtualMachine, tmp_path: Path) -> None:
    run = sdk.submit(tmp_path / "src", WAITS, "to-cancel", tmp_path / "never")
    line = wait_for(lambda: log_of(run), "the first log line")
    child = int(line.split()[1])
    assert alive(child)
    run.cancel()
    assert sdk.ended(run)["status"] == "Canceled"
    assert not alive(child)
    assert run.id not in vm.run_folders()
    run.cancel()
    assert run.get_status() == "Canceled"


def test_a_run_that_takes_too_long_is_canceled_and_says_so(sdk: Sdk, tmp_path: Path) -> None:
    run = sdk.submit(tmp_path / "src", WAITS, "too-long", tmp_path / "never", seconds=1)
    details = sdk.ended(run)
    assert (details["status"], details["error"]["error"]["code"]) == ("Canceled", "MaxRunDurationExceeded")


def test_a_leading_tilde_in_the_interpreters_path_is_the_accounts_home(
    sdk: Sdk, vm: VirtualMachine, tmp_path: Path
) -> None:
    (vm.home / "env").mkdir()
    (vm.home / "env" / "python").symlink_to(sys.executable)
    run = sdk.submit(tmp_path / "src", "import sys; print(sys.executable)", "tilde", interpreter="~/env/python")
    assert sdk.ended(run)["status"] == "Completed"
    assert log_of(run).strip() == f"{vm.home}/env/python"


def test_an_interpreter_that_is_not_there_fails_the_run_and_is_named(sdk: Sdk, tmp_path: Path) -> None:
    details = sdk.ended(sdk.submit(tmp_path / "src", "pass", "no-python", interpreter="/no/such/python"))
    assert details["status"] == "Failed"
    assert "/no/such/python" in details["error"]["error"]["message"]


def test_a_vm_that_is_down_fails_the_run_with_that_reason(sdk: Sdk, vm: VirtualMachine, tmp_path: Path) -> None:
    vm.end()
    try:
        details = sdk.ended(sdk.submit(tmp_path / "src", "pass", "vm-down"))
    finally:
        vm.start()
    error = details["error"]["error"]
    assert (details["status"], error["code"]) == ("Failed", "ComputeUnreachable")
    assert f"127.0.0.1:{vm.port}" in error["message"]


def test_a_run_for_a_compute_that_is_not_attached_is_refused(sdk: Sdk, tmp_path: Path) -> None:
    from azureml.exceptions import AzureMLException

    with pytest.raises((AzureMLException, requests.HTTPError), match="no-such-vm"):
        sdk.submit(tmp_path / "src", "pass", "no-compute", compute="no-such-vm")
    assert "no-compute" not in [run.id for run in sdk.workspace.experiments["contract"].get_runs()]


def test_more_runs_than_the_vm_may_train_at_once_wait_for_their_turn(sdk: Sdk, tmp_path: Path) -> None:
    release = tmp_path / "release"
    runs = [sdk.submit(tmp_path / "src", WAITS, f"queue-{number}", release) for number in range(3)]
    wait_for(lambda: [run.get_status() for run in runs[:2]] == ["Running"] * 2, "the start of two runs")
    assert runs[2].get_status() == "Queued"
    release.touch()
    assert [sdk.ended(run)["status"] for run in runs] == ["Completed"] * 3


def test_a_run_that_waits_is_canceled_without_ever_starting(sdk: Sdk, tmp_path: Path) -> None:
    release = tmp_path / "release"
    runs = [sdk.submit(tmp_path / "src", WAITS, f"cancel-queue-{number}", release) for number in range(3)]
    runs[2].cancel()
    assert runs[2].get_status() == "Canceled"
    release.touch()
    assert [sdk.ended(run)["status"] for run in runs] == ["Completed", "Completed", "Canceled"]
    assert "startTimeUtc" not in sdk.ended(runs[2])


def test_the_same_submission_twice_is_one_run(sdk: Sdk, tmp_path: Path) -> None:
    first = sdk.submit(tmp_path / "src", "print('once')", "twice")
    second = sdk.submit(tmp_path / "src", "print('once')", "twice")
    assert first.id == second.id
    assert sdk.ended(second)["status"] == "Completed"
    assert log_of(second) == "once\n"
    assert [run.id for run in sdk.workspace.experiments["contract"].get_runs()].count("twice") == 1


def test_a_run_id_that_names_another_definition_is_a_conflict(sdk: Sdk, tmp_path: Path) -> None:
    from azureml.exceptions import AzureMLException

    sdk.ended(sdk.submit(tmp_path / "src", "print(1)", "taken"))
    for script, argument in (("print(2)", "same"), ("print(1)", "other")):
        with pytest.raises((AzureMLException, requests.HTTPError), match="exists already"):
            sdk.submit(tmp_path / "src", script, "taken", *([] if argument == "same" else [argument]))


def test_a_runs_token_is_good_for_that_run_only(sdk: Sdk, http: Http, tmp_path: Path) -> None:
    script = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ['AZUREML_RUN_TOKEN'])"
    sdk.ended(sdk.submit(tmp_path / "src", script, "token-owner", tmp_path / "token"))
    sdk.ended(sdk.submit(tmp_path / "src", "pass", "token-other"))
    token = (tmp_path / "token").read_text()
    runs = "/history/v1.0{W}/experiments/contract/runs"
    assert http.call("GET", f"{runs}/token-owner", token=token).status_code == 200
    renewed = http.call("GET", f"{runs}/token-owner/token", token=token).json()["token"]
    assert http.call("GET", f"{runs}/token-owner", token=renewed).status_code == 200
    artifacts = "/artifact/v2.0{W}/artifacts/ExperimentRun/dcid.token-other"
    for method, path in (
        ("GET", f"{runs}/token-other"),
        ("GET", artifacts),
        ("POST", "{W}/computes/edge-vm/listKeys"),
        ("PATCH", f"{runs}/a-new-run"),
        ("POST", f"{runs}:query"),
    ):
        answer = http.call(method, path, token=token, json={} if method != "GET" else None)
        assert error_of(answer)[:2] == (403, "AuthorizationFailed"), path


def test_the_token_and_the_variables_are_on_no_command_line(sdk: Sdk, tmp_path: Path) -> None:
    variables = {"ONLY_IN_THE_ENVIRONMENT": "5f0c1d2e"}
    run = sdk.submit(tmp_path / "src", WAITS, "command-lines", tmp_path / "release", variables=variables)
    wait_for(lambda: log_of(run), "the first log line")
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert any(b"main.py" in line for line in lines)
    assert not any(b"5f0c1d2e" in line or b"AZUREML_RUN_TOKEN" in line for line in lines)
    (tmp_path / "release").touch()
    sdk.ended(run)


@pytest.mark.parametrize("run_id", ["../up", "a/b", "", "-x", "ü"])
def test_a_run_id_that_could_be_a_path_is_refused(http: Http, run_id: str) -> None:
    http.call("POST", "/history/v1.0{W}/experiments/contract")
    path = "/execution/v1.0{W}/experiments/contract/snapshotrun"
    answer = http.call(
        "POST", path, params={"runId": run_id}, json={"Configuration": {"target": "x"}, "SnapshotId": "x"}
    )
    assert error_of(answer)[:2] == (400, "BadArgument")


def test_a_run_registers_its_own_model_and_nobody_elses(sdk: Sdk, tmp_path: Path) -> None:
    script = """
import pathlib, sys
from azureml.core import Run
run = Run.get_context()
pathlib.Path("m").write_text("model")
run.upload_file("outputs/m", "m")
print(run.register_model("from-within", model_path="outputs/m").id)
from azureml._restclient.assets_client import AssetsClient
client = AssetsClient(run.experiment.workspace.service_context)
client.create_asset("stolen", [{"prefix": "ExperimentRun/dcid.reports-1/outputs/model.bin"}], None, run_id=run.id)
"""
    run = sdk.submit(tmp_path / "src", script, "registers")
    details = sdk.ended(run)
    assert "from-within:1" in log_of(run)
    assert (details["status"], "cannot register what is not its own" in log_of(run)) == ("Failed", True)


def test_a_vm_that_cannot_hold_the_snapshot_fails_the_run(sdk: Sdk, vm: VirtualMachine, tmp_path: Path) -> None:
    folder = vm.home / "azureml"
    folder.rename(vm.home / "aside")
    folder.write_text("a file where the folder should be")
    try:
        details = sdk.ended(sdk.submit(tmp_path / "src", "pass", "no-room"))
    finally:
        folder.unlink()
        (vm.home / "aside").rename(folder)
    assert (details["status"], details["error"]["error"]["code"]) == ("Failed", "SnapshotCopyFailed")
