"""A local site and an Airflow of the harness' own, whose Airflow notices quickly that one of its processes is gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.api import AirflowApi
from demo.run import DAG_SECONDS, prepare_site
from demo.settings import DAG_ID, PROJECT, DemoSettings
from demo.stack import COMMANDS, AirflowStack, stop
from local_site import process_table, processes, site
from local_site.settings import Settings
from tests.running_site import RunningSite, free_ports

if TYPE_CHECKING:
    from local_site.process_table import Process

HERE = Path(__file__).parent
AIRFLOW_PREFIX = "airflow-"
# Seconds. The defaults let minutes pass before a process that was killed is missed.
QUICK = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "8",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    # A scheduler whose own heartbeat is older than the threshold takes its own tasks for orphans.
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "7",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "5",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "7",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "3",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "10",
}


class ChaosAirflow(AirflowStack):
    """The demo's Airflow with the settings above and a DAG that tries again soon.

    :param settings: where it lives and listens.
    :param variables: the variables with which the site's services are reached.
    :param scripts: the folder of the training projects.
    """

    def __init__(self, settings: DemoSettings, variables: dict[str, str], scripts: Path) -> None:
        self._more = {**QUICK, "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"), "CHAOS_SCRIPTS": str(scripts)}
        super().__init__(settings, variables)

    def _service(self, name: str, *command: str) -> processes.Service:
        service = super()._service(name, *command)
        return replace(service, env={**service.env, **self._more})

    def start_again(self, name: str) -> None:
        """Start one process that has ended."""
        service = next(service for service in self._services if service.name == name)
        processes.start(service, self._settings.pids)


class ChaosStack:
    """Everything that a round needs, started once.

    :param folder: where all of it lives.
    """

    def __init__(self, folder: Path) -> None:
        running = RunningSite.on_free_ports(folder / "site")
        (ui_port,) = free_ports(1)
        own = {"DEMO_STATE": str(folder), "AIRFLOW_UI_PORT": str(ui_port)}
        # The demo's and the site's own functions read their settings there.
        os.environ.update({**running.variables, **own})
        self.site = RunningSite(running.variables)
        self.settings = DemoSettings.from_environment()
        self.site_settings = Settings.from_environment()
        self.variables = prepare_site(self.site_settings)
        # The SDK reads them when it is imported.
        os.environ.update(self.variables)
        self.scripts = folder / "include" / "training_scripts"
        for name in ("training_scripts", "serving"):
            shutil.copytree(
                PROJECT / "include" / name, folder / "include" / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        self.airflow = ChaosAirflow(self.settings, self.variables, self.scripts)
        self.api = AirflowApi(self.settings.api_url, "admin", self.airflow.secrets.admin_password)

    def up(self) -> None:
        """Start everything and wait until Airflow has read the DAG."""
        with ThreadPoolExecutor(2) as pool:
            site_up, airflow_up = pool.submit(self._site_up), pool.submit(self.airflow.up)
        site_up.result()
        airflow_up.result()
        self.api.wait_for_dag(DAG_ID, parsed_after=0.0, seconds=DAG_SECONDS)

    def down(self) -> None:
        """End everything."""
        for process in self.family("vm"):
            _send(process, signal.SIGCONT)
        for name in COMMANDS:
            self.end_leftovers(name)
        stop(self.settings)
        site.down(self.site_settings)

    def names(self) -> list[str]:
        """Return the names of all processes that ought to run."""
        return [*COMMANDS, *site.NAMES]

    def runs(self, name: str) -> bool:
        """Tell whether a process runs."""
        return processes.running(name, self._pids(name)) is not None

    def kill(self, name: str) -> None:
        """End one process as the kernel does when memory is short; what it had started goes on."""
        pid = processes.running(name, self._pids(name))
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_again(self, name: str) -> None:
        """Start a process that has ended, after what it had left behind was ended, as systemd does."""
        self.end_leftovers(name)
        if name.startswith(AIRFLOW_PREFIX):
            self.airflow.start_again(name)
        else:
            self._site_up(name)

    def end_leftovers(self, name: str) -> None:
        """End what a process that is gone had started."""
        if not self.runs(name):
            for process in self.family(name):
                _send(process, signal.SIGKILL)

    def family(self, name: str) -> set[Process]:
        """Return a process and all that it has started, also when it has ended itself."""
        record = self._pids(name) / f"{name}.json"
        if not record.exists():
            return set()
        content: dict[str, Any] = json.loads(record.read_text())
        now = process_table.find(content["pid"])
        # The number of a process that is gone may have been given to another, which is none of ours.
        foreign = now is not None and now.started != content["started"]
        return set() if foreign else process_table.family(content["pid"])

    def change_code(self, remark: str) -> None:
        """Change the training script, so that its code is new to Azure ML."""
        script = self.scripts / "breast_cancer" / "train.py"
        script.write_text(f"{script.read_text()}# {remark}\n")

    def _site_up(self, *names: str) -> None:
        site.up(self.site_settings, names, report=lambda _line: None)

    def _pids(self, name: str) -> Path:
        return self.settings.pids if name.startswith(AIRFLOW_PREFIX) else self.site_settings.pids


def _send(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
