"""Measures the server on this machine: ``python -m local_site.azure_ml.bench``.

It starts a server and an SSH server of its own on free ports, in a folder that is removed afterwards. The server is
kept on one core.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_site import certificates
from local_site.azure_ml.bench_seed import EXPERIMENT, RUNS, seed
from local_site.azure_ml.settings import Settings, kept_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests

INCLUDE = Path(__file__).parents[2]
READS = 300
POLL_SECONDS = 10
POLLS_PER_SECOND = 50
MIB = 1024 * 1024


@dataclass
class Report:
    """Prints the figures, and remembers whether one missed its goal."""

    missed: bool = False

    def line(self, what: str, value: float, unit: str, goal: float | None = None, *, at_least: bool = False) -> None:
        """Print one figure.

        :param goal: what it must not exceed, or must reach when ``at_least`` is true.
        """
        text = f"{what:<58} {value:10.2f} {unit}"
        if goal is not None:
            good = value >= goal if at_least else value <= goal
            self.missed |= not good
            text += f"   goal: {'at least' if at_least else 'at most'} {goal:g}{'' if good else '   MISSED'}"
        print(text, flush=True)


@dataclass
class Server:
    """The server that is measured.

    :param process: its process.
    :param settings: where it is and who may come in.
    """

    process: subprocess.Popen[bytes]
    settings: Settings

    def memory(self) -> float:
        """Return how much memory it has, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def busy(self) -> float:
        """Return how many seconds it has computed so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def journal(self, session: requests.Session, *, clear: bool = False) -> list[dict[str, Any]]:
        """Return the requests since the last time it was cleared."""
        url = f"{self.settings.base_url}/_control/journal"
        entries: list[dict[str, Any]] = session.get(url, timeout=30).json()["requests"]
        if clear:
            session.delete(url, timeout=30)
        return entries


def main() -> int:
    """Measure everything.

    :return: 0, or 1 when a goal was missed.
    """
    report = Report()
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    load = "/".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"machine: {os.cpu_count()} cores, {model.partition(': ')[2] or platform.machine()}, load {load}")
    print(f"Python {platform.python_version()}, {platform.platform()}\n")
    with (
        tempfile.TemporaryDirectory(prefix="azure-ml-bench-") as folder,
        serving(Path(folder), seed) as server,
        _client(server) as session,
    ):
        _reads(server, session, report)
        _polling(server, session, report)
        _sdk(server, session, Path(folder), report)
    return 1 if report.missed else 0


def _reads(server: Server, session: requests.Session, report: Report) -> None:
    for name, call in _calls(server.settings, session).items():
        server.journal(session, clear=True)
        for number in range(READS):
            call(number * 31 % RUNS)
        seconds = sorted(entry["seconds"] for entry in server.journal(session))
        goal = None if name == "runs by tag" else 10
        report.line(f"{name}, {RUNS} runs stored, median", statistics.median(seconds) * 1000, "ms", goal)
        report.line(f"{name}, 95 of 100 within", seconds[int(len(seconds) * 0.95)] * 1000, "ms")


def _calls(settings: Settings, session: requests.Session) -> dict[str, Callable[[int], Any]]:
    history = f"{settings.base_url}/history/v1.0{settings.workspace_path}/experiments/{EXPERIMENT}"
    metric = f"{settings.base_url}/metric/v2.0{settings.workspace_path}/runs"
    tagged = {"filter": '(Tags/number eq "77") and (Status eq Completed)', "top": 10}
    return {
        "status": lambda number: session.get(f"{history}/runs/run-{number}", timeout=10),
        "details": lambda number: session.get(f"{history}/runs/run-{number}/details", timeout=10),
        "names of metrics": lambda number: session.post(f"{metric}/run-{number}/list", json={}, timeout=10),
        "values of a metric": lambda number: session.post(
            f"{metric}/run-{number}/full", json={"metricName": "loss"}, timeout=10
        ),
        "runs by tag": lambda _number: session.post(f"{history}/runs:query", json=tagged, timeout=10),
    }


def _polling(server: Server, session: requests.Session, report: Report) -> None:
    calls = list(_calls(server.settings, session).values())[:4]
    server.journal(session, clear=True)
    computed, begin = server.busy(), time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        for number in range(POLL_SECONDS * POLLS_PER_SECOND):
            time.sleep(max(0.0, begin + number / POLLS_PER_SECOND - time.monotonic()))
            pool.submit(calls[number % 4], number % RUNS)
    took = time.monotonic() - begin
    entries = server.journal(session)
    good = [entry["seconds"] for entry in entries if entry["status"] == 200]
    report.line("mixed polling, answered", len(good) / took, "/s", POLLS_PER_SECOND * 0.98, at_least=True)
    report.line("mixed polling, median", statistics.median(good) * 1000, "ms", 10)
    report.line("mixed polling, share of one core", (server.busy() - computed) / took * 100, "%", 100)


def _sdk(server: Server, session: requests.Session, folder: Path, report: Report) -> None:
    """Let the real SDK do what takes long, in a process of its own: it reads its settings when it is imported."""
    with _machine(folder / "vm") as (port, key):
        for job in ("files", "bytes", "threads", "log"):
            server.journal(session, clear=True)
            before, peak, over = server.memory(), [0.0], threading.Event()
            watcher = threading.Thread(target=_watch, args=(server, peak, over))
            watcher.start()
            command = [sys.executable, "-W", "ignore", "-m", "local_site.azure_ml.bench_sdk", job, str(port), str(key)]
            environment = {**os.environ, **server.settings.exports(), "PYTHONPATH": str(INCLUDE), "HOME": str(folder)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            over.set()
            watcher.join()
            if done.returncode != 0:
                report.missed = True
                print(f"{job}: FAILED\n{done.stderr[-2000:]}")
                continue
            for what, seconds in json.loads(done.stdout.splitlines()[-1]).items():
                report.line(what, seconds, "s")
            grown = max(peak[0] - before, 0.0)
            report.line("  the server's memory grew by", grown, "MiB", 50 if job == "log" else None)


def _watch(server: Server, peak: list[float], over: threading.Event) -> None:
    while not over.wait(0.05):
        peak[0] = max(peak[0], server.memory())


@contextmanager
def serving(folder: Path, fill: Callable[[Path, int, Path], None]) -> Iterator[Server]:
    """Run a server of our own, on a free port and on one core.

    :param folder: where all of it lives.
    :param fill: puts runs into the state folder before the server is started, given that folder, the port and the bundle of CAs.
    """
    certificates.ensure(folder)
    port = free_port()
    files = [str(folder / name) for name in ("server.pem", "server.key", "trust.pem", "settings.json")]
    Path(files[3]).write_text(json.dumps({"runs_per_vm": 6}))
    command = [
        sys.executable,
        "-m",
        "local_site.azure_ml",
        "serve",
        "--state",
        str(folder / "state"),
        "--port",
        str(port),
    ]
    command += [
        "--cert",
        files[0],
        "--key",
        files[1],
        "--ca-bundle",
        files[2],
        "--settings",
        files[3],
        "--print",
        "nothing",
    ]
    fill(folder / "state", port, Path(files[2]))
    environment = {**os.environ, "PYTHONPATH": str(INCLUDE)}
    with (folder / "server.log").open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        try:
            yield Server(process, kept_settings(folder / "state", port))
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def _client(server: Server) -> Iterator[requests.Session]:
    import requests

    settings = server.settings
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(settings.ca_bundle)
        form = {"grant_type": "client_credentials", "client_id": settings.client_id}
        form |= {"client_secret": settings.client_secret, "scope": f"{settings.base_url}/.default"}
        for _ in range(100):
            try:
                answer = session.post(f"{settings.base_url}/adfs/oauth2/token", data=form, timeout=10)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        yield session


@contextmanager
def _machine(folder: Path) -> Iterator[tuple[int, Path]]:
    """Start an SSH server for the present account, with a home of its own."""
    (folder / "home").mkdir(parents=True)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    lines = [
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {folder / 'host'}",
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
    ]
    lines += [
        f"AuthorizedKeysFile {folder / 'client.pub'}",
        f'SetEnv HOME="{folder / "home"}"',
        "PasswordAuthentication no",
    ]
    (folder / "config").write_text("\n".join([*lines, f"AllowUsers {getpass.getuser()}"]) + "\n")
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "config")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield port, folder / "client"
        finally:
            process.terminate()


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
