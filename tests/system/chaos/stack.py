"""A local site and an Airflow of the harness' own, whose Airflow notices quickly that one of its processes is gone."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.api import AirflowApi
from demo.run import DAG_SECONDS, prepare_site
from demo.settings import DemoSettings
from demo.stack import COMMANDS, AirflowStack, stop
from local_site import process_table, processes, site
from local_site.settings import Settings
from tests.running_site import RunningSite, free_ports
from tests.system.chaos.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from local_site.process_table import Process
    from tests.system.chaos.lanes import Lane

HERE = Path(__file__).parent
AIRFLOW_PREFIX = "airflow-"
# Seconds. The defaults let minutes pass before a process that was killed is missed.
QUICK = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "8",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    # A scheduler whose own heartbeat is older than the threshold takes its own tasks for orphans.
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    # Looking for work ten times a second, as the demo does, is what the machine can do without when several Airflows run on it.
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
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
    """The demo's Airflow with the settings above and DAGs that try again soon.

    :param settings: where it lives and listens.
    :param variables: the variables with which the site's services are reached.
    :param more: further variables.
    """

    def __init__(self, settings: DemoSettings, variables: dict[str, str], more: dict[str, str]) -> None:
        self._more = {**QUICK, "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"), **more}
        super().__init__(settings, variables)

    def _service(self, name: str, *command: str) -> processes.Service:
        service = super()._service(name, *command)
        return replace(service, env={**service.env, **self._more})

    def start_again(self, name: str) -> None:
        """Start one process that has ended."""
        service = next(service for service in self._services if service.name == name)
        processes.start(service, self._settings.pids)

    def start_second(self, name: str) -> str:
        """Start another process of a kind, beside the one that runs, and return what it is called."""
        service = next(service for service in self._services if service.name == name)
        second = replace(service, name=f"{name}-2", log=service.log.with_name(f"{name}-2.log"))
        processes.start(second, self._settings.pids)
        return second.name


class ChaosStack:
    """Everything that a round needs, started once.

    :param folder: where all of it lives.
    :param lanes: makes the lanes in a folder.
    :param changes: site name → task → attribute → value, in place of what the pipeline sets.
    """

    def __init__(
        self,
        folder: Path,
        lanes: Callable[[Path], Sequence[Lane]],
        changes: dict[str, dict[str, dict[str, Any]]] | None = None,
    ) -> None:
        running = RunningSite.on_free_ports(folder / "site")
        ui_port, *proxy_ports = free_ports(3)
        own = {"DEMO_STATE": str(folder), "AIRFLOW_UI_PORT": str(ui_port)}
        self.lanes = tuple(lanes(folder / "lanes"))
        # The demo's and the site's own functions read their settings there.
        os.environ.update({**running.variables, **own})
        self.site = RunningSite(running.variables)
        self.settings = DemoSettings.from_environment()
        self.site_settings = Settings.from_environment()
        self.variables = prepare_site(self.site_settings)
        # The SDK reads them when it is imported.
        os.environ.update(self.variables)
        site_settings, tls = self.site_settings, self.site_settings.tls
        self.proxies = {
            "registry": Proxy(proxy_ports[0], site_settings.registry_port, tls),
            "blob": Proxy(proxy_ports[1], site_settings.blob_port, tls),
        }
        # Airflow, and through its grants the VM, reach these two through the proxies.
        self.variables["LOCAL_SITE_REGISTRY"] = f"127.0.0.1:{proxy_ports[0]}"
        endpoint = self.variables["LOCAL_SITE_BLOB_ENDPOINT"]
        self.variables["LOCAL_SITE_BLOB_ENDPOINT"] = endpoint.replace(
            f":{site_settings.blob_port}/", f":{proxy_ports[1]}/"
        )
        more = {
            "AIRFLOW__CORE__PARALLELISM": str(2 + 2 * len(self.lanes)),
            "EDGE_TRAINING_SITES": str(folder / "lanes/sites"),
            "CHAOS_LANES": str(folder / "lanes"),
            "CHAOS_CHANGES": json.dumps(changes or {}),
        }
        self.airflow = ChaosAirflow(self.settings, self.variables, more)
        self.api = self.new_api()

    def up(self) -> None:
        """Start everything and wait until Airflow has read the DAG."""
        with ThreadPoolExecutor(2) as pool:
            site_up, airflow_up = pool.submit(self._site_up), pool.submit(self.airflow.up)
        site_up.result()
        airflow_up.result()
        for lane in self.lanes:
            self.api.wait_for_dag(lane.dag_id, parsed_after=0.0, seconds=DAG_SECONDS)

    def new_api(self) -> AirflowApi:
        """Return another client of Airflow's API; each thread needs its own."""
        return AirflowApi(self.settings.api_url, "admin", self.airflow.secrets.admin_password)

    def down(self) -> None:
        """End everything."""
        for process in self.family("vm"):
            _send(process, signal.SIGCONT)
        for name in COMMANDS:
            self.end_leftovers(name)
        stop(self.settings)
        site.down(self.site_settings)
        for proxy in self.proxies.values():
            proxy.close()

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

    def stop_second(self, name: str) -> None:
        """End what :meth:`ChaosAirflow.start_second` started."""
        processes.stop(name, self._pids(name))

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

    def _site_up(self, *names: str) -> None:
        site.up(self.site_settings, names, report=lambda _line: None)

    def _pids(self, name: str) -> Path:
        return self.settings.pids if name.startswith(AIRFLOW_PREFIX) else self.site_settings.pids


def _send(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
