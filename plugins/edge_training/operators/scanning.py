"""Has the runner's scanner look for training data where the data is, on the VM; what is looked through goes there and is not kept."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ComputeError
from edge_training.residency.code import POLICY_FILE, RUNNER_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from airflow.sdk.types import Logger

    from edge_training.hooks.ssh_channel import CommandResult
    from edge_training.hooks.training_vm import TrainingVMHook

CLEAN, FOUND = 0, 1
# A digest looks like this as well; everything else that the scanner finds is data.
NO_DATA = frozenset(["token"])
# $1 bytes of the tar archive with the runner, $2 interpreter, the rest the runner's arguments. What follows the archive is what it reads;
# the folder is gone at the end. One whose shell was killed, which holds only the runner and code, goes a day later.
RUN_THE_RUNNER = """
umask 077
mkdir -p "$HOME/.edge-training" && folder=$(mktemp -d "$HOME/.edge-training/scan.XXXXXX") || exit 70
trap 'rm -rf "$folder"' EXIT
find "$HOME/.edge-training" -maxdepth 1 -name 'scan.*' -mmin +1440 -exec rm -rf {} +
head -c "$1" | tar -xf - -C "$folder" || exit 71
python=$2; shift 2
case $python in "~/"*) python="$HOME/${python#??}";; esac
cd "$folder" && "$python" -I edge_run/__main__.py "$@"
"""


def look_for_data(
    vm: TrainingVMHook,
    python: str,
    archive: bytes,
    arguments: Sequence[str],
    *,
    what: str,
    seconds: float,
    stdin: Iterable[bytes] = (),
) -> dict[str, Any]:
    """Run the scanner on the VM, and return what it says: how much it looked through, and what it found.

    :param vm: the training VM.
    :param python: its interpreter; may begin with ``~/``.
    :param archive: a tar archive with the scanner, as of :func:`packed_folder` or :func:`packed_scanner`; unpacked where it runs.
    :param arguments: the scanner's.
    :param what: what is looked through, for the error: "could not look for data in <what>".
    :param seconds: how long it may take; it reads all of the data once.
    :param stdin: what the scanner reads, piece by piece.
    :raises ComputeError: when the VM cannot be reached, or could not scan.
    """
    return _verdict(run_the_runner(vm, python, archive, ["scan", *arguments], stdin, seconds), what)


def run_the_runner(
    vm: TrainingVMHook,
    python: str,
    archive: bytes,
    arguments: Sequence[str],
    stdin: Iterable[bytes] = (),
    seconds: float = 60.0,
) -> CommandResult:
    """Have one of the runner's commands done on the VM, by the code that is sent along, and return what it printed.

    :param vm: the training VM.
    :param python: its interpreter; may begin with ``~/``.
    :param archive: a tar archive with the runner; unpacked where it runs, and removed afterwards.
    :param arguments: the runner's.
    :param stdin: what it reads, piece by piece.
    :param seconds: how long it may take.
    :raises ComputeError: when the VM cannot be reached, or is not done in time.
    """
    words = shlex.join([str(len(archive)), python, *arguments])
    command = f"sh -c {shlex.quote(RUN_THE_RUNNER)} runner {words}"
    return vm.run(command, stdin=_joined(archive, stdin), timeout_seconds=seconds)


def data_findings(verdict: Mapping[str, Any], log: Logger) -> list[dict[str, str]]:
    """Log what the scanner found, and return what of it is training data.

    :param verdict: of :func:`look_for_data`.
    :param log: where to say it; a file's name is repeated only if it is not what holds the data.
    """
    for one in verdict["findings"]:
        log.warning("%s: %s: %s", one["file"] or "a file's name", one["kind"], one["reason"])
    return [one for one in verdict["findings"] if one["kind"] not in NO_DATA]


def packed_folder(folder: Path) -> bytes:
    """Return a folder as a tar archive.

    :param folder: holds ``edge_run``.
    """
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.add(folder, arcname=".")
    return target.getvalue()


def packed_scanner(scripts_folder: Path, policy: Mapping[str, Any]) -> bytes:
    """Return the scanner alone as a tar archive, with its settings.

    :param scripts_folder: holds ``edge_run``.
    :param policy: settings of the gate, ``scan_...`` among them; with none there is no ``policy.json``.
    """
    target, runner = io.BytesIO(), scripts_folder / RUNNER_FOLDER
    with tarfile.open(fileobj=target, mode="w") as archive:
        for file in sorted(runner.rglob("*.py")):
            archive.add(file.resolve(), arcname=f"{RUNNER_FOLDER}/{file.relative_to(runner)}")
        if policy:
            text = json.dumps(dict(policy)).encode()
            member = tarfile.TarInfo(POLICY_FILE)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return target.getvalue()


def policy_arguments(policy: Mapping[str, Any]) -> list[str]:
    """Return how the scanner is told that its settings are in the archive.

    :param policy: the settings.
    """
    return ["--policy", POLICY_FILE] if policy else []


def _joined(archive: bytes, stdin: Iterable[bytes]) -> Iterable[bytes]:
    yield archive
    yield from stdin


def _verdict(result: CommandResult, what: str) -> dict[str, Any]:
    """Read what the scanner printed.

    :raises ComputeError: when it could not scan, or said something else.
    """
    try:
        verdict: dict[str, Any] = json.loads(result.stdout)
        if result.status in {CLEAN, FOUND} and verdict["clean"] is (result.status == CLEAN):
            return verdict
        reason = f"{verdict['error_code']}: {verdict['error']}"
    except (ValueError, KeyError, TypeError):
        reason = f"exit status {result.status}: {result.stderr.strip()[-300:] or 'it gives no reason'}"
    raise ComputeError(f"The training VM could not look for data in {what} ({reason}).")
