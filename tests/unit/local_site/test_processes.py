"""What a person may rely on when programs are started and ended in the background."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local_site import processes
from local_site.errors import BusyPortError, MissingToolError, ServiceStartError
from local_site.processes import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS_UNTIL_GIVING_UP = 10.0


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "pids"
    yield folder
    for record in folder.glob("*.json"):
        processes.stop(record.stem, folder)


def _service(tmp_path: Path, *argv: str, port: int | None = None, timeout: float = 10) -> Service:
    return Service(
        name="trial",
        argv=argv,
        env={"TRIAL": "yes", "TRIAL_UNSET": None},
        cwd=tmp_path,
        log=tmp_path / "trial.log",
        ready=(tmp_path / "ready").exists,
        port=port,
        port_setting="TRIAL_PORT",
        start_timeout=timeout,
    )


def _sleeper(tmp_path: Path) -> Service:
    return _service(tmp_path, "sh", "-c", "touch ready; exec sleep 1000")


def _wait_for(path: Path) -> str:
    deadline = time.monotonic() + _SECONDS_UNTIL_GIVING_UP
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.01)
    return path.read_text().strip()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_started_service_runs_until_it_is_stopped(tmp_path: Path, pids: Path) -> None:
    service = _sleeper(tmp_path)
    assert processes.start(service, pids)
    processes.wait_ready(service, pids)
    pid = processes.running("trial", pids)
    assert pid is not None
    assert _alive(pid)
    assert processes.stop("trial", pids)
    assert not _alive(pid)
    assert processes.running("trial", pids) is None


def test_starting_twice_leaves_the_first_process_alone(tmp_path: Path, pids: Path) -> None:
    assert processes.start(_sleeper(tmp_path), pids)
    pid = processes.running("trial", pids)
    assert not processes.start(_sleeper(tmp_path), pids)
    assert processes.running("trial", pids) == pid


def test_stopping_what_does_not_run_is_no_error(pids: Path) -> None:
    assert not processes.stop("trial", pids)


def test_the_environment_is_the_callers_with_additions_and_removals(
    tmp_path: Path, pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIAL_UNSET", "still here")
    monkeypatch.setenv("TRIAL_KEPT", "kept")
    script = 'echo "$TRIAL-${TRIAL_UNSET:-gone}-$TRIAL_KEPT" > ready; exec sleep 1000'
    processes.start(_service(tmp_path, "sh", "-c", script), pids)
    assert _wait_for(tmp_path / "ready") == "yes-gone-kept"


def test_stop_ends_daemons_that_left_the_process_group(tmp_path: Path, pids: Path) -> None:
    script = "setsid sh -c 'echo $$ > child; exec sleep 1000' & echo $$ > ready; wait"
    processes.start(_service(tmp_path, "sh", "-c", script), pids)
    child = int(_wait_for(tmp_path / "child"))
    processes.stop("trial", pids)
    assert not _alive(child)


def test_stop_kills_what_ignores_the_request_to_end(tmp_path: Path, pids: Path) -> None:
    processes.start(_service(tmp_path, "sh", "-c", "trap '' TERM; echo $$ > ready; while :; do sleep 0.1; done"), pids)
    pid = int(_wait_for(tmp_path / "ready"))
    processes.stop("trial", pids, grace=0.2)
    assert not _alive(pid)


def test_a_process_that_was_given_a_recorded_id_by_chance_is_not_touched(tmp_path: Path, pids: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        try:
            # Start times are told in hundredths of a second.
            time.sleep(0.05)
            processes.start(_sleeper(tmp_path), pids)
            record = json.loads((pids / "trial.json").read_text())
            processes.stop("trial", pids)
            (pids / "trial.json").write_text(json.dumps({**record, "pid": stranger.pid}))
            assert processes.running("trial", pids) is None
            assert not processes.stop("trial", pids)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_record_from_before_the_machine_was_started_anew_is_out_of_date(tmp_path: Path, pids: Path) -> None:
    processes.start(_sleeper(tmp_path), pids)
    path = pids / "trial.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "boot": "another"}))
    assert processes.running("trial", pids) is None
    path.write_text(json.dumps(record))
    assert processes.running("trial", pids) == record["pid"]


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_record_counts_as_not_running(pids: Path, content: str) -> None:
    pids.mkdir()
    (pids / "trial.json").write_text(content)
    assert processes.running("trial", pids) is None


def test_a_busy_port_is_named_together_with_the_setting_that_changes_it(tmp_path: Path, pids: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BusyPortError, match=rf"Port {port} .* trial needs.* TRIAL_PORT"):
            processes.start(_service(tmp_path, "sleep", "1000", port=port), pids)
    assert processes.running("trial", pids) is None


def test_a_missing_program_is_named_together_with_what_installs_it(tmp_path: Path, pids: Path) -> None:
    with pytest.raises(MissingToolError, match=r"no-such-program does not exist.*bin/setup"):
        processes.start(_service(tmp_path, "/usr/bin/no-such-program"), pids)


def test_a_service_that_ends_at_once_shows_its_own_last_words_only(tmp_path: Path, pids: Path) -> None:
    (tmp_path / "trial.log").write_text("from an earlier start\n")
    service = _service(tmp_path, "sh", "-c", "echo cannot read the settings; exit 1")
    processes.start(service, pids)
    with pytest.raises(ServiceStartError, match=r"ended while it was being started") as caught:
        processes.wait_ready(service, pids)
    assert "cannot read the settings" in str(caught.value)
    assert "earlier start" not in str(caught.value)


def test_a_service_that_never_answers_is_given_up(tmp_path: Path, pids: Path) -> None:
    service = _service(tmp_path, "sleep", "1000", timeout=0.1)
    processes.start(service, pids)
    with pytest.raises(ServiceStartError, match=r"within 0.1 seconds"):
        processes.wait_ready(service, pids)


def test_a_changed_definition_is_noticed(tmp_path: Path, pids: Path) -> None:
    processes.start(_sleeper(tmp_path), pids)
    assert processes.running_as_defined(_sleeper(tmp_path), pids)
    assert not processes.running_as_defined(_service(tmp_path, "sleep", "999"), pids)


def test_a_service_outlives_the_program_that_started_it(tmp_path: Path, pids: Path) -> None:
    program = (
        "import sys, pathlib; from local_site import processes\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "service = processes.Service('trial', ('sleep', '1000'), {}, here, here / 'log', lambda: True)\n"
        "processes.start(service, here / 'pids')\n"
    )
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env={**os.environ, "PYTHONPATH": path})
    assert processes.running("trial", pids) is not None
    assert processes.stop("trial", pids)
