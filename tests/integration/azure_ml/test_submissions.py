"""Submissions that come at once, come twice, or are large."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.azure_ml.scripts import log_of

if TYPE_CHECKING:
    from tests.integration.azure_ml.sdk import Sdk


def test_six_threads_submitting_at_once_make_six_runs(sdk: Sdk, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        submitted = pool.map(lambda n: sdk.submit(tmp_path / str(n), f"print({n})", f"at-once-{n}"), range(6))
        runs = list(submitted)
    assert [sdk.ended(run)["status"] for run in runs] == ["Completed"] * 6
    assert [log_of(run) for run in runs] == [f"{number}\n" for number in range(6)]
    listed = [run.id for run in sdk.workspace.experiments["contract"].get_runs()]
    assert sorted(name for name in listed if name.startswith("at-once")) == [f"at-once-{n}" for n in range(6)]


def test_the_same_submission_from_six_threads_is_one_run(sdk: Sdk, tmp_path: Path) -> None:
    first = sdk.submit(tmp_path / "src", "print('once')", "one-for-all")
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda _: sdk.submit(tmp_path / "src", "print('once')", "one-for-all"), range(6)))
    assert {run.id for run in runs} == {first.id}
    assert sdk.ended(first)["status"] == "Completed"
    assert log_of(first) == "once\n"
    listed = [run.id for run in sdk.workspace.experiments["contract"].get_runs()]
    assert listed.count("one-for-all") == 1


def test_a_log_of_100_mib_is_whole_and_does_not_grow_the_servers_memory(sdk: Sdk, tmp_path: Path) -> None:
    assert sdk.server.child is not None
    status = f"/proc/{sdk.server.child.pid}"
    Path(status, "clear_refs").write_text("5")  # the highest mark starts again from here
    before = memory(status)
    run = sdk.submit(tmp_path / "src", f"line = 'x' * 1023\nfor _ in range({100 * 1024}): print(line)", "long-log")
    assert sdk.ended(run)["status"] == "Completed"
    run.download_file("user_logs/std_log.txt", str(tmp_path / "log"))
    assert (tmp_path / "log").stat().st_size == 100 * 1024 * 1024
    assert memory(status) - before < 50 * 1024


def memory(process: str) -> int:
    """Return the most memory that a process has had, in KiB."""
    lines = Path(process, "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
