"""What continuous integration starts, it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
SUPERVISE = [sys.executable, str(PROJECT / ".ci/supervise.py")]


def alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_command_s_exit_status_is_handed_on() -> None:
    assert subprocess.run([*SUPERVISE, "sh", "-c", "exit 3"], check=False).returncode == 3


def test_a_process_that_the_command_left_in_another_session_is_ended_and_named() -> None:
    command = [*SUPERVISE, "sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!; sleep 0.2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not alive(done.stdout.strip())
    assert "Left running, ended now with SIGTERM" in done.stderr
    assert "sleep 600" in done.stderr


def test_a_stopped_command_is_interrupted_so_that_it_can_tidy_up() -> None:
    script = "import time\nprint('begun', flush=True)\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('tidied up')\n"
    with subprocess.Popen([*SUPERVISE, sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "tidied up\n"
    assert process.returncode == 128 + signal.SIGTERM
