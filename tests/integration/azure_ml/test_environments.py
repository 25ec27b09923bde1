"""Where a run's Python comes from, and what its folders give away while it goes on."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.integration.azure_ml.scripts import WAITS, log_of
from tests.integration.azure_ml.servers import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.azure_ml.sdk import Sdk
    from tests.integration.azure_ml.servers import VirtualMachine

METADATA = "Metadata-Version: 2.1\nName: greets\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
GREETS = "import greets, sys; print(greets.WORD, sys.prefix)"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the module a package that no index has."""
    path = tmp_path_factory.mktemp("wheel") / "greets-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("greets.py", "WORD = 'hello'\n")
        archive.writestr("greets-1.0.dist-info/METADATA", METADATA)
        archive.writestr("greets-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr("greets-1.0.dist-info/RECORD", "greets.py,,\n")
    return path


def environment(*packages: str, version: str = "3.11") -> Any:
    """Return an environment of pip packages, as the SDK makes them."""
    from azureml.core import Environment
    from azureml.core.conda_dependencies import CondaDependencies

    dependencies = CondaDependencies()
    dependencies.remove_pip_package("azureml-defaults")
    dependencies.set_python_version(version)
    for package in packages:
        dependencies.add_pip_package(package)
    made = Environment("with-packages")
    made.python.conda_dependencies = dependencies
    return made


def test_pip_packages_are_installed_once_for_all_runs_that_name_them(
    sdk: Sdk, vm: VirtualMachine, wheel: Path, tmp_path: Path
) -> None:
    wanted = environment(f"greets @ {wheel.as_uri()}")
    runs = [sdk.submit(tmp_path / "src", GREETS, f"pip-{number}", environment=wanted) for number in range(2)]
    assert [sdk.ended(run)["status"] for run in runs] == ["Completed"] * 2, log_of(runs[0])
    words = [log_of(run).strip() for run in runs]
    assert words[0] == words[1]
    assert words[0].startswith(f"hello {vm.home}/azureml/envs/")
    assert len(list((vm.home / "azureml" / "envs").glob("*/ready"))) == 1


def test_a_package_that_there_is_not_fails_the_run_with_what_pip_said(sdk: Sdk, tmp_path: Path) -> None:
    wanted = environment(f"nothing @ {(tmp_path / 'nothing-1.0-py3-none-any.whl').as_uri()}")
    details = sdk.ended(sdk.submit(tmp_path / "src", "print('started')", "pip-missing", environment=wanted))
    error = details["error"]["error"]
    assert (details["status"], error["code"]) == ("Failed", "EnvironmentBuildFailed")
    assert "nothing-1.0-py3-none-any.whl" in error["message"]
    assert "started" not in error["message"]


def test_a_python_that_the_machine_does_not_have_fails_the_run_and_is_named(sdk: Sdk, tmp_path: Path) -> None:
    wanted = environment(version="3.8")
    details = sdk.ended(sdk.submit(tmp_path / "src", "pass", "pip-old-python", environment=wanted))
    assert (details["status"], details["error"]["error"]["code"]) == ("Failed", "EnvironmentBuildFailed")
    assert "The environment asks for Python 3.8" in details["error"]["error"]["message"]


def test_conda_packages_fail_the_run_and_are_named(sdk: Sdk, tmp_path: Path) -> None:
    wanted = environment()
    wanted.python.conda_dependencies.add_conda_package("numpy=2.0")
    details = sdk.ended(sdk.submit(tmp_path / "src", "pass", "conda", environment=wanted))
    assert (details["status"], details["error"]["error"]["code"]) == ("Failed", "UserError")
    assert "'numpy=2.0'" in details["error"]["error"]["message"]
    assert "user_managed_dependencies" in details["error"]["error"]["message"]


def test_a_docker_image_fails_the_run_and_is_named(sdk: Sdk, tmp_path: Path) -> None:
    from azureml.core import Environment

    wanted = Environment.from_docker_image("in-docker", "registry.example/trainer:1")
    details = sdk.ended(sdk.submit(tmp_path / "src", "pass", "docker", environment=wanted))
    assert (details["status"], details["error"]["error"]["code"]) == ("Failed", "UserError")
    assert "registry.example/trainer:1" in details["error"]["error"]["message"]


def test_a_docker_configuration_fails_the_run(sdk: Sdk, tmp_path: Path) -> None:
    from azureml.core.runconfig import DockerConfiguration

    docker = DockerConfiguration(use_docker=True)
    details = sdk.ended(sdk.submit(tmp_path / "src", "pass", "use-docker", docker=docker))
    assert (details["status"], "Docker" in details["error"]["error"]["message"]) == ("Failed", True)


def test_a_pip_environment_that_is_canceled_while_it_is_made_leaves_nothing_half_made(
    sdk: Sdk, vm: VirtualMachine, wheel: Path, tmp_path: Path
) -> None:
    before = set((vm.home / "azureml" / "envs").glob("*/ready"))
    wanted = environment(f"greets @ {wheel.as_uri()}")
    wanted.python.conda_dependencies.set_pip_option("--pre")
    run = sdk.submit(tmp_path / "src", GREETS, "pip-canceled", environment=wanted)
    wait_for(lambda: run.get_status() == "Running", "the start of the run")
    run.cancel()
    assert sdk.ended(run)["status"] == "Canceled"
    again = sdk.submit(tmp_path / "src", GREETS, "pip-after", environment=wanted)
    assert sdk.ended(again)["status"] == "Completed", log_of(again)
    assert len(set((vm.home / "azureml" / "envs").glob("*/ready")) - before) == 1


def test_outputs_and_logs_can_be_read_while_the_run_goes_on(sdk: Sdk, tmp_path: Path) -> None:
    script = (
        "import pathlib\nfor name in ('outputs', 'logs'): pathlib.Path(name).mkdir()\n"
        "pathlib.Path('outputs/early.txt').write_text('early')\nlog = open('logs/steps.log', 'w', buffering=1)\n"
        "print('step 1', file=log)\n" + WAITS + "\nprint('step 2', file=log)\n"
        "pathlib.Path('outputs/early.txt').write_text('changed at the end')"
    )
    run = sdk.submit(tmp_path / "src", script, "appears", tmp_path / "release")
    wanted = {"outputs/early.txt", "logs/steps.log"}
    wait_for(lambda: wanted <= set(run.get_file_names()), "the early files")
    assert run.get_status() == "Running"
    run.download_file("outputs/early.txt", str(tmp_path / "early"))
    assert (tmp_path / "early").read_text() == "early"
    url = run.get_details()["logFiles"]["logs/steps.log"]
    assert requests.get(url, timeout=10).text == "step 1\n"
    (tmp_path / "release").touch()
    assert sdk.ended(run)["status"] == "Completed", log_of(run)
    run.download_file("outputs/early.txt", str(tmp_path / "late"))
    assert (tmp_path / "late").read_text() == "changed at the end"
    assert requests.get(url, timeout=10).text == "step 1\nstep 2\n"


def test_what_the_script_uploaded_itself_is_not_replaced_by_its_folder(sdk: Sdk, tmp_path: Path) -> None:
    script = (
        "import pathlib\nfrom azureml.core import Run\nrun = Run.get_context()\n"
        "pathlib.Path('own').write_text('uploaded')\nrun.upload_file('outputs/own', 'own')\n"
        "pathlib.Path('outputs').mkdir(exist_ok=True)\npathlib.Path('outputs/own').write_text('left behind')"
    )
    run = sdk.submit(tmp_path / "src", script, "own-upload")
    assert sdk.ended(run)["status"] == "Completed"
    run.download_file("outputs/own", str(tmp_path / "own"))
    assert (tmp_path / "own").read_text() == "uploaded"


def test_the_snapshot_of_a_run_comes_back_as_a_zip(sdk: Sdk, tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "data.txt").write_text("kept")
    run = sdk.submit(source, "print('whole')", "to-restore")
    assert run.get_snapshot_id() == run.get_properties()["ContentSnapshotId"]
    path = run.restore_snapshot(path=str(tmp_path))
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        assert (names, archive.read("deep/data.txt")) == ({"main.py", "deep/data.txt"}, b"kept")
    assert sdk.ended(run)["status"] == "Completed"


def test_a_run_that_waits_says_where_it_stands(sdk: Sdk, tmp_path: Path) -> None:
    release = tmp_path / "release"
    runs = [sdk.submit(tmp_path / "src", WAITS, f"stands-{number}", release) for number in range(4)]
    wait_for(lambda: [run.get_status() for run in runs[:2]] == ["Running"] * 2, "the start of two runs")
    messages = [run.get_detailed_status()["details"] for run in runs[2:]]
    assert messages == [f"Run stands-{2 + i} is number {1 + i} of the 2 that wait for compute edge-vm." for i in (0, 1)]
    assert runs[0].get_detailed_status() == {"status": "Running", "details": None}
    queue = sdk.server.control("GET", "/_control/queue")
    assert [one["runId"] for one in queue["waiting"]] == ["stands-2", "stands-3"]
    assert queue["active"] == ["stands-0", "stands-1"]
    release.touch()
    assert [sdk.ended(run)["status"] for run in runs] == ["Completed"] * 4
