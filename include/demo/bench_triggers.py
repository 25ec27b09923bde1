"""Measures many deferred runs on one real triggerer: `python -m demo.bench_triggers`.

It starts an Azure ML stand-in of its own with runs that go on, and Airflow's own triggerer with a database in which as many tasks are
deferred for them. Then it ends the runs at random moments and looks when Airflow knows. Everything is removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from demo.settings import AirflowSecrets, DemoSettings
from demo.stack import environment
from local_site import process_table
from local_site.azure_ml.backend import open_backend
from local_site.azure_ml.bench import Report, Server, free_port, serving
from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.settings import make_settings
from local_site.azure_ml.web import container_of
from local_site.files import tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_site.azure_ml.settings import Settings

EXPERIMENT = "bench"
LOG = "user_logs/std_log.txt"
LINES = b"script | a line of a log\n" * 10
INTERVAL = 5.0
ENDING_SECONDS = 40.0
WARM_SECONDS = 25.0
"""Until the first lines of all logs are printed."""
PATIENCE_SECONDS = 180.0
STOP_SECONDS = 15.0
LONGEST_BLOCK_MS = 50.0
ENDING = 0.3
"""The share of the runs that end while it is measured; the others are waited for all the time."""
GROWING = 0.05
"""The share of the runs whose log grows by a line each interval: what trains at one time on a few VMs."""


@dataclass
class Bench:
    """What is measured.

    :param runs: ids of the runs.
    :param folder: where all of it lives.
    :param seed: of the moments at which runs end.
    """

    runs: list[str]
    folder: Path
    seed: int
    logs: list[Path] = field(default_factory=list)
    ended: dict[str, float] = field(default_factory=dict)

    def fill(self, state: Path, port: int, bundle: Path) -> None:
        """Put the runs into the stand-in's state: all of them train, each with a log."""
        backend = open_backend(make_settings(state, port, bundle, None))
        experiment, now = backend.history.make_experiment(EXPERIMENT)["experiment_id"], utc_text()
        keys = [backend.blobs.new_key() for _ in self.runs]
        for key in keys:
            backend.blobs.write(key, [LINES])
        with backend.database.write() as connection:
            connection.executemany(
                "insert into runs (run_id, experiment_id, status, created, started, root_run_id, run_type, target)"
                " values (?, ?, 'Running', ?, ?, ?, 'azureml.scriptrun', 'edge-vm')",
                ((run_id, experiment, now, now, run_id) for run_id in self.runs),
            )
            connection.executemany(
                "insert into artifacts values ('ExperimentRun', ?, ?, ?, ?)",
                ((container_of(run_id), LOG, key, now) for run_id, key in zip(self.runs, keys, strict=True)),
            )
        self.logs = [backend.blobs.path(key) for key in keys[-max(1, int(len(keys) * GROWING)) :]]

    def end_runs(self, settings: Settings) -> None:
        """End some of the runs at random moments, and let some logs grow meanwhile."""
        chance = random.Random(self.seed)  # noqa: S311 - the moments shall be the same again
        plan = sorted(
            (chance.uniform(0, ENDING_SECONDS), run_id) for run_id in self.runs[: int(len(self.runs) * ENDING)]
        )
        begin, grown = time.monotonic(), 0
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(settings.ca_bundle)
            for moment, run_id in plan:
                time.sleep(max(0.0, begin + moment - time.monotonic()))
                while grown < (time.monotonic() - begin) / INTERVAL * len(self.logs):
                    self._grow(self.logs[grown % len(self.logs)], grown)
                    grown += 1
                self.ended[run_id] = time.time()
                url = f"{settings.base_url}/_control/runs/{run_id}/status"
                session.post(url, json={"status": chance.choice(["Completed"] * 9 + ["Failed"])}, timeout=30)

    @staticmethod
    def _grow(log: Path, number: int) -> None:
        with log.open("ab") as stream:
            stream.write(b"script | line %d\n" % number)


@dataclass
class Triggerer:
    """Airflow's triggerer and its database.

    :param process: the supervisor, whose child runs the triggers.
    :param database: Airflow's.
    :param beats: the file that the heart beats into.
    :param log: what it prints.
    """

    process: subprocess.Popen[bytes]
    database: Path
    beats: Path
    log: Path

    def usage(self) -> tuple[float, float]:
        """Return seconds of processor time so far, and MiB of memory (a page that processes share counts once)."""
        computed = memory = 0.0
        for one in process_table.family(self.process.pid):
            fields = Path(f"/proc/{one.pid}/stat").read_text().rpartition(") ")[2].split()
            computed += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            rollup = Path(f"/proc/{one.pid}/smaps_rollup").read_text()
            memory += int(rollup.partition("Pss:")[2].split()[0]) / 1024
        return computed, memory

    def detected(self) -> dict[int, float]:
        """Return when Airflow's database knew of the end of a run, by the number of the task."""
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30) as connection:
            rows = connection.execute(
                "select map_index, updated_at from task_instance where state <> 'deferred' and trigger_id is null"
            ).fetchall()
        return {index: datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for index, text in rows}

    def heart(self, begin: float, end: float) -> list[list[float]]:
        """Return what the heart wrote down between two moments."""
        lines = self.beats.read_text().splitlines() if self.beats.exists() else []
        return [beat for beat in map(json.loads, lines) if begin <= beat[0] <= end]

    def wait_for(self, what: str, count: int, found: Any) -> None:
        """Wait until something has reached a number."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while found() < count:
            if time.monotonic() > deadline or self.process.poll() is not None:
                said = tail(self.log, lines=20)
                raise SystemExit(
                    f"{what}: {found()} of {count} after {PATIENCE_SECONDS:.0f} s. The triggerer said:\n{said}"
                )
            time.sleep(0.2)


def main() -> int:
    """Measure, and print the figures; return 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m demo.bench_triggers", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="how many runs are waited for")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which runs end")
    options = parser.parse_args()
    report = Report()
    _say_machine()
    with tempfile.TemporaryDirectory(prefix="bench-triggers-") as folder:
        bench = Bench([f"bench-{number}" for number in range(options.runs)], Path(folder), options.seed)
        with serving(bench.folder, bench.fill) as server, _triggerer(bench, server.settings) as triggerer:
            _measure(bench, server, triggerer, report)
    return 1 if report.missed else 0


def _say_machine() -> None:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    load = "/".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"machine: {os.cpu_count()} cores, {model.partition(': ')[2] or platform.machine()}, load {load}")
    print(f"Python {platform.python_version()}, {platform.platform()}\n")


def _measure(bench: Bench, server: Server, triggerer: Triggerer, report: Report) -> None:
    start = time.time()
    triggerer.wait_for(
        "triggers started", len(bench.runs), lambda: (triggerer.heart(start, time.time()) or [[0] * 5])[-1][4]
    )
    report.line(f"{len(bench.runs)} triggers started within", time.time() - start, "s")
    time.sleep(WARM_SECONDS)
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(server.settings.ca_bundle)
        server.journal(session, clear=True)
        begin, (computed, _) = time.time(), triggerer.usage()
        bench.end_runs(server.settings)
        took = time.time() - begin
        now, memory = triggerer.usage()
        asked = server.journal(session)
    triggerer.wait_for("ends detected", len(bench.ended), lambda: len(triggerer.detected()))
    report.line("triggerer, share of one core", (now - computed) / took * 100, "%", 100)
    report.line("triggerer, memory", memory, "MiB")
    lists = sum(entry["path"].endswith("runs:query") for entry in asked)
    report.line("requests to Azure ML", len(asked) / took, "/s")
    report.line("  of these for states", lists / took, "/s")
    _delays(bench, triggerer, report)
    _blocks(start, begin, triggerer, report)


def _delays(bench: Bench, triggerer: Triggerer, report: Report) -> None:
    found = triggerer.detected()
    moments = [(at, found[int(run_id.rpartition("-")[2])] - at) for run_id, at in bench.ended.items()]
    delays = sorted(delay for _, delay in moments)
    report.line("from a run's end to its detection, p50", statistics.median(delays), "s")
    report.line("  95 of 100 within", delays[int(len(delays) * 0.95)], "s", INTERVAL + 1)
    report.line("  the longest", delays[-1], "s")
    half = len(moments) // 2
    early, late = (statistics.median(delay for _, delay in part) for part in (moments[:half], moments[half:]))
    report.line("  later by, in the second half", late - early, "s", 1)


def _blocks(start: float, begin: float, triggerer: Triggerer, report: Report) -> None:
    """Say how long the event loop did nothing else, at the start and afterwards.

    The goal is about what is called on the loop. A full collection goes through what a thousand waiting triggers are made of, three
    quarters of it Airflow's own; until CPython 3.14 it does so in one go, whoever calls what.
    """
    for what, beats in (
        ("while triggers started", triggerer.heart(start, begin)),
        ("while runs ended", triggerer.heart(begin, time.time())),
    ):
        late = max(beats, key=lambda beat: beat[1])
        report.line(f"event loop, longest blocking call {what}", late[1] * 1000, "ms", LONGEST_BLOCK_MS)
        report.line("  of that the loop's own work", late[2] * 1000, "ms")
        over = sum(beat[1] * 1000 > LONGEST_BLOCK_MS for beat in beats)
        report.line(f"  seconds with a block over {LONGEST_BLOCK_MS:.0f} ms, of {len(beats)}", over, "")
        report.line("  with garbage collections", max(beat[6] for beat in beats) * 1000, "ms")
        report.line("  the longest garbage collection", max(beat[5] for beat in beats) * 1000, "ms")
        report.line("  with the time in which it had no processor", max(beat[3] for beat in beats) * 1000, "ms")


@contextmanager
def _triggerer(bench: Bench, azure_ml: Settings) -> Iterator[Triggerer]:
    beats, plan = bench.folder / "beats", bench.folder / "plan.json"
    content = {"runs": bench.runs, "interval": INTERVAL, "experiment": EXPERIMENT, "beats": str(beats)}
    plan.write_text(json.dumps(content))
    env = _environment(bench, azure_ml)
    made = [sys.executable, "-m", "demo.bench_triggers_airflow", str(plan)]
    done = subprocess.run(made, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The database of the bench could not be made:\n{done.stderr[-3000:]}")
    command = [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"]
    log = bench.folder / "triggerer.log"
    with log.open("wb") as stream, subprocess.Popen(command, env=env, stdout=stream, stderr=stream) as process:
        try:
            yield Triggerer(process, Path(env["AIRFLOW_HOME"]) / "airflow.db", beats, log)
        finally:
            family = process_table.family(process.pid)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                for one in family & process_table.family(process.pid):
                    os.kill(one.pid, signal.SIGKILL)


def _environment(bench: Bench, azure_ml: Settings) -> dict[str, str]:
    """Return the environment of an Airflow of our own whose only connection is that to the stand-in."""
    settings = DemoSettings(state=bench.folder, ui_port=free_port(), timeout=60)
    site = azure_ml.exports()
    extra = {
        "tenant_id": site["LOCAL_SITE_TENANT_ID"],
        "cloud": site["AZUREML_CURRENT_CLOUD"],
        "subscription_id": site["LOCAL_SITE_SUBSCRIPTION_ID"],
        "resource_group": site["LOCAL_SITE_RESOURCE_GROUP"],
        "workspace": site["LOCAL_SITE_WORKSPACE"],
    }
    login, password = site["LOCAL_SITE_CLIENT_ID"], site["LOCAL_SITE_CLIENT_SECRET"]
    connection = {"conn_type": "azure_ml", "login": login, "password": password, "extra": extra}
    made = environment(settings, AirflowSecrets.ensure(settings.airflow_home), site)
    own = {name: value for name, value in {**os.environ, **made}.items() if value is not None}
    return {
        **own,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{settings.airflow_home / 'airflow.db'}",
        "AIRFLOW_CONN_AZURE_ML": json.dumps(connection),
        "AIRFLOW__TRIGGERER__CAPACITY": str(2 * len(bench.runs) + 10),
        "AIRFLOW__CORE__MAX_MAP_LENGTH": str(len(bench.runs) + 1),
        "HOME": str(bench.folder),
    }


if __name__ == "__main__":
    sys.exit(main())
