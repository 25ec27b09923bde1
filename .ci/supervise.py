"""Runs one command and ends whatever it leaves behind: `supervise.py COMMAND [ARGUMENT ...]`.

Orphans of the command become children of this process (a Linux "child subreaper"), so that all of them, and nothing else, are
found again, whichever session or process group they moved to. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
INTERRUPT_SECONDS = 60.0
GRACE_SECONDS = 20.0


def main(command: list[str]) -> int:
    """Run the command and return its exit status, 128 + signal when a signal ended it or us."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        print("This kernel does not let a process adopt orphans; run the command itself instead.", file=sys.stderr)
        return 2
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Before the command starts: it would inherit "ignored", which is what a background job of a script begins with.
        signal.signal(number, lambda number, _frame: received.append(number))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    status = _wait(process, received)
    _end_leftovers()
    if received:
        return 128 + received[0]
    return status if status >= 0 else 128 - status


def _wait(process: subprocess.Popen[bytes], received: list[int]) -> int:
    """Wait for the command; when we are told to stop, interrupt it and give it some time to tidy up."""
    deadline = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
        if received and deadline is None:
            deadline = time.monotonic() + INTERRUPT_SECONDS
            # An interrupt, because that lets pytest run the ends of its fixtures.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        if deadline is not None and time.monotonic() > deadline:
            process.kill()


def _end_leftovers() -> None:
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        left = _descendants(os.getpid())
        for pid in left:
            print(f"Left running, ended now with {number.name}: {pid} {_command_line(pid)}", file=sys.stderr)
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while _descendants(os.getpid()) and time.monotonic() < deadline:
            time.sleep(0.1)


def _descendants(root: int) -> list[int]:
    """Return every living process below one, after burying the dead ones that are ours."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
