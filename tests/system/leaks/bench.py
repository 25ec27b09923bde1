"""Measures what watching costs, and prints it with the machine: ``python -m tests.system.leaks.bench [--megabytes N]``.

The searches run in a process of their own with the training environment's interpreter, on one core, so that its memory can be told.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[3] / "include" / "training_scripts"
COLUMNS = 30
RUNS = 5
EMPTY = "import edge_context\nedge_context.save_model(b'\\x08\\x08:\\x00B\\x02\\x10\\x11')\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="of training data to search for")
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.search:
        print(json.dumps(_search(found.search)))
        return
    print(f"machine            {_machine()}")
    with tempfile.TemporaryDirectory(prefix="bench-residency-") as folder:
        for name, value in {**_measure_search(Path(folder), found.megabytes), **_measure_run(Path(folder))}.items():
            print(f"{name:<18} {value}")


def _machine() -> str:
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model.split(':')[1].strip()}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}"


def _python() -> str:
    from local_site import training_env
    from local_site.settings import Settings

    return str(training_env.ensure(Settings.from_environment()) / "bin" / "python")


def _measure_search(folder: Path, megabytes: int) -> dict[str, str]:
    data = folder / "data"
    data.mkdir()
    _write_data(data, megabytes)
    _write_artifacts(folder)
    command = [_python(), "-m", "tests.system.leaks.bench", "--search", str(data)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPTS), *sys.path])}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    one_core = ["taskset", "-c", "0"]
    done = subprocess.run([*one_core, *command], env=environment, capture_output=True, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return {
        "training data": f"{found['bytes'] / 1e6:.0f} MB, {found['facts']['rows']} rows of {COLUMNS} columns",
        "learning it": f"{found['learn']:.1f} s of a core's time, {found['bytes'] / found['learn'] / 1e6:.0f} MB/s",
        "weights": f"{found['weights']:.0f} MB/s of a core's time (single precision, nothing in it)",
        "random bytes": f"{found['random']:.0f} MB/s of a core's time",
        "rows found": f"{found['found']} of {found['planted']} files with 20 rows each among weights",
        "memory": f"{found['memory'] / 1e6:.0f} MB at most, numpy and the searched file included",
    }


def _write_data(folder: Path, megabytes: int) -> None:
    """Write rows of random numbers like 123.4567, quickly."""
    import numpy as np

    random = np.random.default_rng(1)
    rows = 100_000_000 // (COLUMNS * 9)
    for number in range(max(1, megabytes // 100)):
        cells = random.integers(48, 58, (rows, COLUMNS, 9), dtype=np.uint8)
        cells[:, :, 0] = random.integers(49, 58, (rows, COLUMNS), dtype=np.uint8)
        cells[:, :, 3], cells[:, :, 8] = ord("."), ord(",")
        cells[:, -1, 8] = ord("\n")
        header = ",".join(f"column_{one}" for one in range(COLUMNS))
        (folder / f"{number:03}.csv").write_bytes(f"{header}\n".encode() + cells.tobytes())


def _search(folder: Path) -> dict[str, Any]:
    """Learn the data and search files that have none of it, and some that have; in a process of its own."""
    import numpy as np

    from edge_run.policy import Policy
    from edge_run.scan.scanner import Scanner

    paths = sorted(folder.iterdir())
    # The processor's time, so that others who use the machine do not count.
    start = time.process_time()
    scanner = Scanner.best(paths, Policy())
    learn = time.process_time() - start
    random = np.random.default_rng(2)
    speeds = {}
    for name in ("weights", "random"):
        content = _map(folder.parent / name)
        start = time.process_time()
        assert scanner.scan(content) is None
        speeds[name] = len(content) / (time.process_time() - start) / 1e6
    with paths[len(paths) // 2].open() as file:
        rows = np.loadtxt([file.readline() for _ in range(20_001)][1:], delimiter=",")
    around = random.standard_normal(100_000, dtype=np.float32).tobytes()
    places = [int(place) for place in random.integers(0, len(rows) - 20, 100)]
    finds = sum(
        scanner.scan(around + rows[place : place + 20].astype(code).tobytes() + around) is not None
        for place, code in zip(places, ["<f4", ">f4", "<f8", ">f8"] * 25, strict=True)
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = sum(path.stat().st_size for path in paths)
    facts = {
        "bytes": size,
        "facts": scanner.facts(),
        "learn": learn,
        "memory": memory,
        "found": finds,
        "planted": len(places),
    }
    return {**facts, **speeds}


def _write_artifacts(folder: Path) -> None:
    """Write 64 MiB of weights, and of random bytes; here, so that what making them takes is not counted as the scanner's."""
    import numpy as np

    random = np.random.default_rng(2)
    random.standard_normal(1 << 24, dtype=np.float32).tofile(folder / "weights")
    (folder / "random").write_bytes(random.bytes(1 << 26))


def _map(path: Path) -> mmap.mmap:
    """Map a file, as the gate does with a model."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _measure_run(folder: Path) -> dict[str, str]:
    from local_site.data import blobs
    from tests.integration.edge_run.blob_server import BlobServer
    from tests.integration.edge_run.conftest import lay_out, make_tls

    (folder / "tls").mkdir()
    python, results = _python(), []
    with BlobServer(*make_tls(folder / "tls")) as store:
        thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            for name, content in blobs().items():
                if name.endswith(".csv"):
                    store.put(name, content)
            (folder / "vm").mkdir()
            site = lay_out(store, folder / "vm")
            site.python = python
            for _ in range(RUNS + 1):
                start = time.perf_counter()
                outcome = site.run(EMPTY, environment={"PYTHONDONTWRITEBYTECODE": ""})
                results.append((time.perf_counter() - start, outcome.record))
        finally:
            store.shutdown()
            thread.join()
    plain = statistics.median(_time([python, "-c", "pass"]) for _ in range(RUNS))
    whole = statistics.median(wall for wall, _ in results[1:])
    script = statistics.median(record["seconds"]["script"] for _, record in results[1:])
    return {
        **_sandbox_starts(folder),
        "wrapper": f"{whole:.2f} s for a run of the demo's size with an empty script; {script:.2f} s of it in the sandbox, where "
        f"that script alone takes {plain:.2f} s",
        "phases": json.dumps(results[-1][1]["seconds"]),
    }


def _sandbox_starts(folder: Path) -> dict[str, str]:
    """Measure how long each kind of sandbox takes to start and end with nothing in it."""
    from edge_run.sandbox import SANDBOXES, make_plan
    from edge_run.workspace import open_workspace

    workspace, _ = open_workspace(folder)
    (folder / "project").mkdir()
    bare = statistics.median(_time(["/bin/true"]) for _ in range(RUNS))
    found = {}
    for sandbox in SANDBOXES:
        command = [*sandbox.command(make_plan(sandbox, workspace, folder / "project", {})), "/bin/true"]
        inside = statistics.median(_time(command) for _ in range(RUNS))
        found[sandbox.kind] = f"{1000 * (inside - bare):.0f} ms more than without one (median of {RUNS})"
    workspace.wipe()
    return found


def _time(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
