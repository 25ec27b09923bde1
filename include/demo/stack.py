"""The demo's Airflow: its environment, its database, and its four processes, all on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import requests

from demo import metadata_database
from demo.errors import DemoError
from demo.metadata_database import MetadataDatabase
from demo.settings import PORT_SETTING, PROJECT, AirflowSecrets, DemoSettings, code_digest
from local_site import files, processes
from local_site.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Environment = dict[str, str | None]

API_SERVER = "airflow-api-server"
TRIGGERER = "airflow-triggerer"
DATABASE = metadata_database.NAME
# Ends by itself when only its main process is told. The triggerer ends its own child, and when the child gets the same signal at the
# same time, each waits 10 s for the other; PostgreSQL waits for its clients, unless it gets this one.
FIRST_SIGNALS = {TRIGGERER: signal.SIGTERM, DATABASE: signal.SIGINT}
FIRST_SIGNAL_SECONDS = 10.0
# Without --skip-serve-logs, scheduler and triggerer serve the logs of tasks on all of the machine's addresses. On one machine
# nobody needs that: the API server reads the same files.
COMMANDS = {
    API_SERVER: ("demo.preloaded", "api-server"),
    "airflow-scheduler": ("demo.preloaded", "scheduler", "--skip-serve-logs"),
    "airflow-dag-processor": ("demo.preloaded", "dag-processor"),
    TRIGGERER: ("demo.preloaded", "triggerer", "--skip-serve-logs"),
}
NAMES = (DATABASE, *COMMANDS)


@dataclass(frozen=True)
class ProcessState:
    """One line of what `status` tells."""

    name: str
    pid: int | None


class AirflowStack:
    """Airflow's processes, started together and ended together.

    :param settings: where they live and listen.
    :param site: the variables with which the site's services are reached.
    """

    def __init__(self, settings: DemoSettings, site: Mapping[str, str]) -> None:
        self._settings = settings
        self.secrets = AirflowSecrets.ensure(settings.airflow_home)
        self._site = dict(site)
        self._environment = environment(settings, self.secrets, site)
        self._database = MetadataDatabase(settings)
        self._services = [self._service(name, *command) for name, command in COMMANDS.items()]

    @property
    def services(self) -> list[processes.Service]:
        """All of its processes, in the order in which they are started."""
        return [self._database.service(), *self._services]

    def check_port(self) -> None:
        """Make sure that the API server can listen on its port.

        :raises BusyPortError: when another program does.
        """
        if processes.running(API_SERVER, self._settings.pids) is None:
            processes.check_port_is_free("Airflow", self._settings.ui_port, PORT_SETTING)

    def up(self) -> bool:
        """Start what is not running yet, and wait until the API answers.

        :return: whether anything had to be started.
        :raises LocalSiteError: when the port is busy or a process ends at once; what this call started is ended again.
        :raises DemoError: when the database cannot be made.
        """
        with files.locked(self._settings.airflow_home / "lock"):
            pids = self._settings.pids
            if all(processes.running_as_defined(service, pids) for service in self.services):
                processes.wait_ready(self._services[0], pids)
                return False
            # All of them, because they share the database, the code and the secrets.
            stop(self._settings)
            self.check_port()
            try:
                self._prepare_database()
                for service in self._services:
                    processes.start(service, pids)
                processes.wait_ready(self._services[0], pids)
            except BaseException:
                stop(self._settings)
                raise
        return True

    def check_alive(self) -> None:
        """Make sure that every process still runs.

        :raises DemoError: with the end of the log of one that does not.
        """
        for service in self.services:
            if processes.running(service.name, self._settings.pids) is None:
                said = files.tail(service.log, lines=20)
                raise DemoError(f"{service.name} has ended by itself. The end of its log, {service.log}:\n{said}")

    def _service(self, name: str, *command: str) -> processes.Service:
        return processes.Service(
            name=name,
            argv=(sys.executable, "-m", *command),
            env=self._environment,
            cwd=PROJECT,
            log=self._settings.process_logs / f"{name}.log",
            ready=self._answers,
            port=self._settings.ui_port if name == API_SERVER else None,
            port_setting=PORT_SETTING,
            start_timeout=120,
        )

    def _answers(self) -> bool:
        try:
            with requests.Session() as session:
                session.trust_env = False
                return session.get(f"{self._settings.api_url}/api/v2/version", timeout=5).ok
        except requests.RequestException:
            return False

    def _prepare_database(self) -> None:
        """Start the database, and make or migrate it unless that was done by the same versions with the same settings."""
        stamp = self._settings.airflow_home / "prepared"
        content = [self._site, self.secrets.fernet_key, files_digest()]
        wanted = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        is_prepared = self._database.is_made and stamp.exists() and stamp.read_text() == wanted
        self._database.make()
        server = self._database.service()
        processes.start(server, self._settings.pids)
        processes.wait_ready(server, self._settings.pids)
        if is_prepared:
            return
        env = {name: value for name, value in {**os.environ, **self._environment}.items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-m", "demo.database"], cwd=PROJECT, env=env, capture_output=True, text=True, check=False
        )
        files.write(self._settings.process_logs / "database.log", done.stdout + done.stderr)
        if done.returncode:
            said = "\n".join((done.stderr or done.stdout).splitlines()[-20:])
            raise DemoError(f"Airflow's database could not be made:\n{said}")
        files.write(stamp, wanted)


def stop(settings: DemoSettings) -> list[str]:
    """End Airflow's processes.

    :return: the names of those that were running.
    """
    # The API server goes last but one: the others tell it how their tasks ended. All of them need the database.
    others = [name for name in COMMANDS if name != API_SERVER]
    with ThreadPoolExecutor(len(others)) as pool:
        ended = list(pool.map(lambda name: _stop(name, settings.pids), others))
    stopped = [name for name, was_running in zip(others, ended, strict=True) if was_running]
    return stopped + [name for name in (API_SERVER, DATABASE) if _stop(name, settings.pids)]


def _stop(name: str, pids: Path) -> bool:
    pid = processes.running(name, pids)
    if pid is not None and name in FIRST_SIGNALS:
        os.kill(pid, FIRST_SIGNALS[name])
        deadline = time.monotonic() + FIRST_SIGNAL_SECONDS
        while processes.running(name, pids) is not None and time.monotonic() < deadline:
            time.sleep(0.05)
    return processes.stop(name, pids) or pid is not None


def status(settings: DemoSettings) -> list[ProcessState]:
    """Say which of Airflow's processes run."""
    return [ProcessState(name, processes.running(name, settings.pids)) for name in NAMES]


def files_digest() -> str:
    """Return a hash over what the database is made of: the versions and the settings file."""
    parts = [(PROJECT / name).read_bytes() for name in ("requirements.lock", "airflow_settings.yaml")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def environment(settings: DemoSettings, secrets: AirflowSecrets, site: Mapping[str, str]) -> Environment:
    """Return the variables of Airflow's processes; ``None`` takes one away that this process has.

    :param settings: where they live and listen.
    :param secrets: made for this demo.
    :param site: the variables with which the site's services are reached.
    """
    home, port = settings.airflow_home, settings.ui_port
    foreign: Environment = {name: None for name in os.environ if name.startswith(("AIRFLOW_", "_AIRFLOW_"))}
    loopback = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1,localhost"]))
    return {
        **foreign,
        **site,
        **_tuning(),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": secrets.fernet_key,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{settings.api_url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": MetadataDatabase(settings).url,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": settings.ui_url,
        "AIRFLOW__API__SECRET_KEY": secrets.secret_key,
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.jwt_secret,
        # Finished layers of serving dependencies, which bin/setup has made already.
        "EDGE_TRAINING_CACHE": str(Settings.from_environment().cache / "layers"),
        # Not used by Airflow: it makes a process that imported other code another process.
        "DEMO_CODE_DIGEST": code_digest(),
        "PYTHONPATH": os.pathsep.join(str(PROJECT / name) for name in ("include", "plugins")),
        "PYTHONDONTWRITEBYTECODE": None,
        "NO_PROXY": loopback,
        "no_proxy": loopback,
    }


def _tuning() -> Environment:
    """Return what makes Airflow quick on two processors; the defaults are for machines with many tasks."""
    return {
        # The pause between the end of a task and the start of the next one; 1 by default.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
        # A finished task keeps its slot until the next heartbeat; 5 by default.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # As many workers are started beforehand; 32 by default.
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
    }
