"""What was acknowledged survives the server's death, and runs outlive it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.integration.azure_ml.scripts import WAITS, alive, log_of
from tests.integration.azure_ml.servers import AzureML, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.azure_ml.sdk import Sdk
    from tests.integration.azure_ml.servers import VirtualMachine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureML]:
    """Give the module a server that gives a lost VM up soon, and trains one run at a time."""
    server = AzureML(tmp_path_factory.mktemp("azure-ml"), vm_loss_seconds=2, runs_per_vm=1)
    server.start()
    yield server
    server.end()


def test_everything_that_was_acknowledged_is_there_after_kill_9(sdk: Sdk, server: AzureML, tmp_path: Path) -> None:
    from azureml.core import Environment, Experiment, Model, Run

    script = (
        "import pathlib; pathlib.Path('outputs').mkdir(); pathlib.Path('outputs/m').write_text('model'); print('x')"
    )
    run = sdk.submit(tmp_path / "src", script, "kept", tags={"site": "oslo"})
    sdk.ended(run)
    interactive = Experiment(sdk.workspace, "contract").start_logging(snapshot_directory=None)
    interactive.log("accuracy", 0.9)
    interactive.flush()
    model = run.register_model("kept-model", model_path="outputs/m", tags={"a": "b"})
    Environment("kept-environment").register(sdk.workspace)
    server.kill_and_restart()

    workspace = sdk.log_in()
    assert workspace.get_run("kept").get_tags() == {"site": "oslo"}
    assert log_of(workspace.get_run("kept")) == "x\n"
    assert Run.get(workspace, interactive.id).get_metrics() == {"accuracy": 0.9}
    assert Run.get(workspace, interactive.id).get_status() == "Running"
    assert Model(workspace, id=model.id).tags == {"a": "b"}
    assert Environment.get(workspace, "kept-environment").version == "1"
    assert workspace.compute_targets["edge-vm"].provisioning_state == "Succeeded"


def test_an_unchanged_source_needs_no_new_snapshot_after_a_restart(sdk: Sdk, server: AzureML, tmp_path: Path) -> None:
    sdk.ended(sdk.submit(tmp_path / "src", "print('same')", "same-1"))
    server.kill_and_restart()
    server.control("DELETE", "/_control/journal")
    run = sdk.submit(tmp_path / "src", "print('same')", "same-2")
    assert not [entry for entry in server.journal() if "/snapshots/" in entry["path"]]
    assert sdk.ended(run)["status"] == "Completed"


def test_a_running_run_goes_on_through_kill_9_and_its_log_is_whole(sdk: Sdk, server: AzureML, tmp_path: Path) -> None:
    script = WAITS.replace("released", "released after the restart")
    run = sdk.submit(tmp_path / "src", script, "outlives", tmp_path / "release")
    waiting = sdk.submit(tmp_path / "src", script, "outlives-queued", tmp_path / "release")
    first = wait_for(lambda: log_of(run), "the first log line")
    server.end(signal.SIGKILL)
    (tmp_path / "release").touch()
    server.start()
    assert sdk.ended(run)["status"] == "Completed"
    assert log_of(run) == f"{first}released after the restart\n"
    assert sdk.ended(waiting)["status"] == "Completed"


def test_a_run_that_ended_while_the_server_was_down_ends_as_it_did(sdk: Sdk, server: AzureML, tmp_path: Path) -> None:
    finished = tmp_path / "finished"
    script = WAITS + f"\nimport pathlib; pathlib.Path({str(finished)!r}).touch(); sys.exit(3)"
    run = sdk.submit(tmp_path / "src", script, "ends-alone", tmp_path / "release")
    wait_for(lambda: log_of(run), "the first log line")
    server.end(signal.SIGKILL)
    (tmp_path / "release").touch()
    wait_for(finished.exists, "the end of the script")
    server.start()
    details = sdk.ended(run)
    assert (details["status"], "status code 3" in details["error"]["error"]["message"]) == ("Failed", True)


def test_a_cancel_that_was_acknowledged_is_carried_out_after_kill_9(
    sdk: Sdk, server: AzureML, vm: VirtualMachine, tmp_path: Path
) -> None:
    run = sdk.submit(tmp_path / "src", WAITS, "cancel-restart", tmp_path / "never")
    wait_for(lambda: log_of(run), "the first log line")
    run.cancel()
    server.kill_and_restart()
    assert sdk.ended(run)["status"] == "Canceled"
    assert run.id not in vm.run_folders()


def test_a_run_that_was_ended_by_hand_loses_its_processes_even_when_the_server_dies_at_once(
    sdk: Sdk, server: AzureML, vm: VirtualMachine, tmp_path: Path
) -> None:
    run = sdk.submit(tmp_path / "src", WAITS, "by-hand-restart", tmp_path / "never")
    child = int(wait_for(lambda: log_of(run), "the first log line").split()[1])
    server.control("POST", "/_control/runs/by-hand-restart/status", {"status": "Failed"})
    server.kill_and_restart()
    wait_for(lambda: not alive(child), "the end of the processes")
    wait_for(lambda: run.id not in vm.run_folders(), "the end of the folder")
    assert run.get_status() == "Failed"


def test_a_broken_connection_is_made_again_and_the_log_has_no_gap(sdk: Sdk, vm: VirtualMachine, tmp_path: Path) -> None:
    run = sdk.submit(tmp_path / "src", WAITS, "reconnects", tmp_path / "release")
    first = wait_for(lambda: log_of(run), "the first log line")
    vm.cut_connections()
    (tmp_path / "release").touch()
    assert sdk.ended(run)["status"] == "Completed"
    assert log_of(run) == f"{first}released\n"


def test_a_vm_that_stays_lost_while_a_run_goes_on_fails_the_run(sdk: Sdk, vm: VirtualMachine, tmp_path: Path) -> None:
    run = sdk.submit(tmp_path / "src", WAITS, "vm-lost", tmp_path / "release")
    wait_for(lambda: log_of(run), "the first log line")
    vm.cut_connections()
    vm.end()
    try:
        details = sdk.ended(run)
    finally:
        (tmp_path / "release").touch()
        vm.start()
    assert (details["status"], details["error"]["error"]["code"]) == ("Failed", "ComputeUnreachable")


def test_a_clean_stop_ends_the_process_well(tmp_path: Path) -> None:
    server = AzureML(tmp_path)
    server.start()
    assert server.end(signal.SIGTERM) in {0, -signal.SIGTERM}


def test_a_busy_port_is_named(server: AzureML, tmp_path: Path) -> None:
    second = AzureML(tmp_path)
    second.port = server.port
    with pytest.raises(AssertionError, match=f"Port {server.port} on 127.0.0.1 cannot be used"):
        second.start()
