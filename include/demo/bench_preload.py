"""Measures what tasks and processes of Airflow save by what `demo.preloaded` does: `python -m demo.bench_preload`.

First what a task pays to have the SDKs, alone and as the fork of a process that has them. Then what rarer garbage collections save of a
triggerer's start.
"""

from __future__ import annotations

import importlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from demo.preloaded import MODULES, NEW_OBJECTS

ROUNDS = 5
# What speaks with Azure ML in one DAG run, poll_run twice: before and after it is deferred.
TASKS = (
    "ensure_compute_attached",
    "submit_experiment",
    "poll_run",
    "poll_run",
    "audit_egress",
    "register_model",
    "build_and_push_image",
    "verify_image",
    "deploy_model",
)
# Airflow's own modules are there in both cases.
ALONE = """
import importlib, sys, time
import airflow.sdk.execution_time.task_runner
begin = time.perf_counter()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(time.perf_counter() - begin)
"""

# All that a triggerer does before its first trigger; the argument is how often garbage is looked for.
START = """
import gc, sys, time
gc.set_threshold(int(sys.argv[1]))
from demo import preloaded
preloaded.preload()
preloaded.prepare_answers()
print(time.process_time())
"""
BY_DEFAULT = 700


def alone() -> float:
    """Return the seconds that a process of its own takes to import."""
    done = subprocess.run([sys.executable, "-c", ALONE, *MODULES], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def start(new_objects: int) -> float:
    """Return the seconds of processor time of a triggerer's start.

    :param new_objects: after how many of them Python looks for garbage.
    """
    done = subprocess.run([sys.executable, "-c", START, str(new_objects)], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def forked() -> float:
    """Return the seconds until the fork of this process has imported, and has ended."""
    begin = time.perf_counter()
    child = os.fork()
    if not child:
        for name in MODULES:
            importlib.import_module(name)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"The fork ended with {status}.")
    return time.perf_counter() - begin


def main() -> None:
    """Print both, and what it makes for a DAG run, with the machine."""
    with tempfile.TemporaryDirectory(prefix="bench-preload-") as home:
        os.environ.update(AIRFLOW_HOME=home, AIRFLOW__CORE__LOAD_EXAMPLES="False")
        print(f"{platform.platform()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; medians of {ROUNDS}")
        before = statistics.median(alone() for _ in range(ROUNDS))
        for name in MODULES:
            importlib.import_module(name)
        after = statistics.median(forked() for _ in range(ROUNDS))
        pairs = [(start(BY_DEFAULT), start(NEW_OBJECTS)) for _ in range(ROUNDS)]
        often, rarely = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"a process that imports the SDKs itself      {before:7.3f} s")
    print(f"a fork of one that has imported them        {after:7.3f} s   ({before / after:.0f} times less)")
    print(
        f"in the {len(TASKS)} task processes of a DAG run       {len(TASKS) * before:7.1f} s before, {len(TASKS) * after:.1f} s after"
    )
    print(
        f"a triggerer's start, processor time         {often:7.3f} s with Python's {BY_DEFAULT} new objects between collections"
    )
    print(
        f"                                            {rarely:7.3f} s with {NEW_OBJECTS:,} ({1 - rarely / often:.0%} less)"
    )


if __name__ == "__main__":
    main()
