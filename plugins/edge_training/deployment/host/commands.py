"""What the pipeline can have done on a host."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training.deployment.host import ask, processes, sandbox, unit
from edge_training.deployment.host.ask import Door
from edge_training.deployment.host.errors import HostError
from edge_training.deployment.host.fetch import Registry
from edge_training.deployment.host.front import STATE_FILE, Target, read_state, write_state
from edge_training.deployment.host.store import Store, StoredImage

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG_TAIL = 2000
_UNUSED_SECONDS = 3600.0
_PUBLIC_SECONDS = 5.0
_SECONDS_FOR_ANOTHER = 60.0
_PAUSE = 0.05

Order = dict[str, Any]


def home() -> Path:
    """Return the folder of all that serves on this host."""
    return Path.home() / ".edge-training" / "serving"


def _store() -> Store:
    return Store(home() / "images")


def _folder(name: str) -> Path:
    return home() / "d" / name


def pull(order: Order) -> dict[str, Any]:
    """Fetch an image, so that it is here when it is needed.

    :param order: ``registry``, ``repository`` and ``digest``, and ``compile``: whether to run its command once, which then imports what
        images above it import, and to keep what Python compiles.
    """
    store = _store()
    image = store.get(Registry(order["registry"]), order["repository"], order["digest"])
    count, reason = 0, ""
    if order["compile"]:
        try:
            count = store.compile(image, sandbox.best_isolation())
        except HostError as error:
            # Images start all the same, only later.
            reason = str(error)
    return {**_about(image), "compiled": count, "not_compiled": reason}


def verify(order: Order) -> dict[str, Any]:
    """Start an image apart from everything, and compare its answers with the recorded ones.

    :param order: ``registry``, ``repository``, ``digest``, ``probe``, ``requests``: how many are timed, and ``seconds``: to get healthy.
    """
    begin = time.monotonic()
    image = _store().get(Registry(order["registry"]), order["repository"], order["digest"])
    with _started(image, order["seconds"]) as (door, process, cold_start):
        compared = ask.check_answers(door, order["probe"])
        questions = [case["request"] for case in order["probe"]["cases"]]
        median, slow = ask.latencies(door, questions, order["requests"]) if questions else (0.0, 0.0)
        memory = processes.memory_bytes(process)
    return {
        **_about(image),
        "isolation": sandbox.best_isolation(),
        "cold_start_seconds": cold_start,
        "compared": compared,
        "p50_seconds": median,
        "p95_seconds": slow,
        "memory_bytes": memory,
        "total_seconds": time.monotonic() - begin,
    }


def deploy(order: Order) -> dict[str, Any]:
    """Put an image into service: beside the old one first, then instead of it, or not at all.

    :param order: ``name``, ``address``, ``port``, ``registry``, ``repository``, ``digest``, ``probe``, ``about``, ``seconds``, and
        ``keep``: how many earlier images stay here to go back to.
    """
    begin = time.monotonic()
    with _alone(order["name"], order["seconds"] + _SECONDS_FOR_ANOTHER) as folder:
        return {**_deploy(order, folder), "total_seconds": time.monotonic() - begin}


def _deploy(order: Order, folder: Path) -> dict[str, Any]:
    image = _store().get(Registry(order["registry"]), order["repository"], order["digest"])
    state = _with_address(folder, order)
    supervisor = unit.start(folder, Path(sys.argv[0]))
    since = datetime.now(UTC).isoformat(timespec="seconds")
    about = {**order["about"], "reference": image.reference, "since": since}
    target = Target(image.digest, str(image.root), image.run, about)
    started = unit.order(folder, "start", target=asdict(target))
    try:
        swap = _swap(folder, order, Path(started["folder"]), image.digest)
    except HostError:
        if not state.get("active"):
            # There is nothing that it could serve instead.
            unit.stop(folder)
        raise
    settled = unit.order(folder, "settle", keep=max(int(order["keep"]), 1))
    kept = [settled["state"]["active"]["digest"], *(one["digest"] for one in settled["state"]["earlier"])]
    removed = _store().prune([*kept, *_digests_of_other_deployments(order["name"])], _UNUSED_SECONDS)
    return {
        **_about(image),
        "supervisor": supervisor,
        "address": order["address"],
        "port": order["port"],
        "previous": settled["state"]["earlier"][-1]["digest"] if settled["state"]["earlier"] else "",
        "unchanged": (state.get("active") or {}).get("digest", "") == image.digest,
        "since": since,
        "removed": removed,
        **swap,
    }


def _swap(folder: Path, order: Order, own: Path, digest: str) -> dict[str, Any]:
    """Check a started image, let it serve, check it once more where its users ask it; or end it."""
    try:
        door = Door(str(own / sandbox.SOCKET_NAME))
        ready = ask.wait_healthy(door, order["seconds"], lambda: _ended(folder, digest))
        ask.check_answers(door, order["probe"])
    except HostError as error:
        told = _log_tail(own)
        unit.order(folder, "discard", digest=digest)
        raise HostError(error.kind, f"{error}{told}") from error
    begin = time.monotonic()
    unit.order(folder, "promote", digest=digest)
    seconds = time.monotonic() - begin
    try:
        public = Door((order["address"], order["port"]))
        ask.wait_healthy(public, _PUBLIC_SECONDS, lambda: "")
        compared = ask.check_answers(public, order["probe"])
    except HostError:
        unit.order(folder, "revert", digest=digest)
        raise
    return {"ready_seconds": ready, "swap_seconds": seconds, "compared": compared}


def _with_address(folder: Path, order: Order) -> dict[str, Any]:
    """Return what is known of a deployment, and note where it is to listen; one that moves is ended first."""
    state = read_state(folder)
    wanted = {"address": order["address"], "port": order["port"]}
    if any(state.get(name) != value for name, value in wanted.items()):
        if state and unit.is_up(folder):
            raise HostError(
                "port",
                f"Deployment '{order['name']}' serves on {state['address']}:{state['port']} and is to serve on "
                f"{order['address']}:{order['port']}: stop it first, or give the new place another name.",
            )
        write_state(folder, {**state, **wanted})
    return state


def status(order: Order) -> dict[str, Any]:
    """Tell what serves.

    :param order: ``name``.
    """
    folder = _folder(order["name"])
    state = read_state(folder)
    if not unit.is_up(folder):
        return {"up": False, "state": state}
    return {"up": True, **unit.order(folder, "status")}


def stop(order: Order) -> dict[str, Any]:
    """End a deployment; what is written down about it stays.

    :param order: ``name``.
    """
    if not _folder(order["name"]).exists():
        return {"stopped": False}
    with _alone(order["name"], _SECONDS_FOR_ANOTHER) as folder:
        return {"stopped": unit.stop(folder)}


@contextmanager
def _alone(name: str, seconds: float) -> Iterator[Path]:
    """Give a deployment's folder to one command at a time.

    When the pipeline loses its connection, its command goes on here, and the next try comes while it does. Each would take what the other
    has started for left over, and end it.
    """
    folder = _folder(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with (folder / "lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise HostError(
                        "host",
                        f"Another command has been at work on deployment '{name}' for more than {seconds:.0f} s: is there a second "
                        "DAG run, or a process on the host that hangs?",
                        retryable=True,
                    ) from None
                time.sleep(_PAUSE)
        yield folder


def _digests_of_other_deployments(name: str) -> list[str]:
    found = []
    for path in (home() / "d").glob(f"*/{STATE_FILE}"):
        state = read_state(path.parent)
        if path.parent.name != name:
            found += [one["digest"] for one in [state.get("active"), *state.get("earlier", ())] if one]
    return found


@contextmanager
def _started(image: StoredImage, seconds: float) -> Iterator[tuple[Door, int, float]]:
    """Run an image for as long as the block lasts, with the first process in its sandbox; an error carries the end of its log."""
    kind = sandbox.best_isolation()
    (home() / "v").mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=home() / "v"))
    command = sandbox.command_line(kind, image.root, image.run, folder)
    try:
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=sandbox.quiet_environment()
            )
        try:
            door = Door(str(folder / sandbox.SOCKET_NAME))
            cold_start = ask.wait_healthy(
                door, seconds, lambda: "its program ended" if process.poll() is not None else ""
            )
            yield door, sandbox.first_process(kind, process.pid, folder), cold_start
        except HostError as error:
            raise HostError(error.kind, f"{error}{_log_tail(folder)}") from error
        finally:
            sandbox.end(kind, process)
            process.communicate()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ended(folder: Path, digest: str) -> str:
    """Return why an image that was started does not run any more, or nothing."""
    found = unit.order(folder, "status")["instances"].get(digest, {"running": False, "failures": 1})
    return "its program ended" if found["failures"] else ""


def _log_tail(folder: Path) -> str:
    try:
        text = (folder / "log").read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace").strip()
    except OSError:
        text = ""
    return f". The end of its log:\n{text or '(empty)'}"


def _about(image: StoredImage) -> dict[str, Any]:
    return {
        "reference": image.reference,
        "digest": image.digest,
        "layers": image.layers,
        "fetched_layers": image.fetched,
        "bytes": image.bytes,
        "pull_seconds": image.seconds,
    }


COMMANDS = {"pull": pull, "verify": verify, "deploy": deploy, "status": status, "stop": stop}
