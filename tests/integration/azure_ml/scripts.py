"""What the tests let run on the VM, and how they look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

WAITS = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "120"])
print("child", child.pid, flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
print("released", flush=True)
child.kill()
"""


def log_of(run: Any, start: int = 0) -> str:
    """Return a run's log from a byte on."""
    url = run.get_details()["logFiles"].get("user_logs/std_log.txt")
    answer = requests.get(url, headers={"Range": f"bytes={start}-"}, timeout=10) if url else None
    return answer.text if answer is not None and answer.status_code == 206 else ""


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False
