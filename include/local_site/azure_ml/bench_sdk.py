"""What the measurements let the real SDK do; prints seconds by name as JSON: ``bench_sdk JOB PORT KEY``."""

from __future__ import annotations

import getpass
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FILES = 2_000
LARGE_MB = 250
LOG_MB = 100
THREADS = 6
SCRIPT = """
import pathlib, sys
found = [path for path in pathlib.Path(".").rglob("*") if path.is_file()]
print(len(found), sum(path.stat().st_size for path in found))
"""
PRINTS = f"""
line = "x" * 1023
for _ in range({LOG_MB} * 1024):
    print(line)
"""


def main() -> None:
    """Do one job."""
    job, port, key = sys.argv[1:]
    workspace = _workspace()
    _attach(workspace, int(port), key)
    with tempfile.TemporaryDirectory() as folder:
        figures = {"files": _files, "bytes": _bytes, "threads": _threads, "log": _log}[job](workspace, Path(folder))
    print(json.dumps(figures))


def _files(workspace: Any, folder: Path) -> dict[str, float]:
    for number in range(FILES - 1):
        (folder / f"{number:04}.txt").write_text(str(number))
    return _submitted(workspace, folder, f"a snapshot of {FILES} files", f"{FILES} ")


def _bytes(workspace: Any, folder: Path) -> dict[str, float]:
    block = os.urandom(1024 * 1024)
    for number in range(LARGE_MB // 50):
        with (folder / f"{number}.bin").open("wb") as stream:
            for _ in range(50):
                stream.write(block)
    return _submitted(workspace, folder, f"a snapshot of {LARGE_MB} MiB", f"{LARGE_MB // 50 + 1} ")


def _threads(workspace: Any, folder: Path) -> dict[str, float]:
    begin = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        runs = list(pool.map(lambda number: _submit(workspace, folder / str(number), SCRIPT), range(THREADS)))
    submitted = time.monotonic() - begin
    for run in runs:
        _ended(run)
    if len({run.id for run in runs}) != THREADS:
        raise SystemExit(f"{THREADS} submissions made other runs: {sorted(run.id for run in runs)}")
    return {
        f"{THREADS} threads submitting at once, until all are accepted": submitted,
        f"{THREADS} threads submitting at once, until all runs ended": time.monotonic() - begin,
    }


def _log(workspace: Any, folder: Path) -> dict[str, float]:
    begin = time.monotonic()
    run = _submit(workspace, folder, PRINTS)
    _ended(run)
    took = time.monotonic() - begin
    run.download_file("user_logs/std_log.txt", str(folder / "log"))
    if (folder / "log").stat().st_size != LOG_MB * 1024 * 1024:
        raise SystemExit(f"the log has {(folder / 'log').stat().st_size} bytes")
    return {f"a run that prints {LOG_MB} MiB": took}


def _submitted(workspace: Any, folder: Path, what: str, prints: str) -> dict[str, float]:
    begin = time.monotonic()
    run = _submit(workspace, folder, SCRIPT)
    sent = time.monotonic() - begin
    _ended(run)
    took = time.monotonic() - begin
    with tempfile.TemporaryDirectory() as place:
        run.download_file("user_logs/std_log.txt", f"{place}/log")
        text = Path(place, "log").read_text()
    if not text.startswith(prints):
        raise SystemExit(f"the run found {text!r} instead of {prints!r} files")
    return {f"{what}, until it is submitted": sent, f"{what}, until the run ended": took}


def _submit(workspace: Any, folder: Path, script: str) -> Any:
    from azureml.core import Environment, Experiment, ScriptRunConfig

    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(script)
    environment = Environment("bench")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    source = ScriptRunConfig(str(folder), script="main.py", compute_target="bench-vm", environment=environment)
    return Experiment(workspace, "bench").submit(source)


def _ended(run: Any) -> None:
    while (status := run.get_status()) not in {"Completed", "Failed", "Canceled"}:
        time.sleep(0.1)
    if status != "Completed":
        raise SystemExit(f"run {run.id} ended as {status}: {run.get_details()['error']}")


def _attach(workspace: Any, port: int, key: str) -> None:
    from azureml.core.compute import ComputeTarget, RemoteCompute

    options = {"address": "127.0.0.1", "ssh_port": port, "username": getpass.getuser(), "private_key_file": key}
    ComputeTarget.attach(workspace, "bench-vm", RemoteCompute.attach_configuration(**options)).wait_for_completion()


def _workspace() -> Any:
    from azureml.core import Workspace
    from azureml.core.authentication import ServicePrincipalAuthentication

    names = ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET", "SUBSCRIPTION_ID", "RESOURCE_GROUP", "WORKSPACE")
    tenant, client, secret, *place = (os.environ[f"LOCAL_SITE_{name}"] for name in names)
    login = ServicePrincipalAuthentication(tenant, client, secret, cloud=os.environ["AZUREML_CURRENT_CLOUD"])
    return Workspace(*place, auth=login)


if __name__ == "__main__":
    main()
