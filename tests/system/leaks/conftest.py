"""Runs all the scripts as a VM would, a few at a time, and keeps what became of them."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from local_site import training_env
from local_site.data import blobs
from local_site.settings import Settings
from tests.integration.edge_run.blob_server import BlobServer
from tests.integration.edge_run.conftest import Outcome, lay_out, tls
from tests.system.leaks.scripts import LEAKS, Leak, write_script

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.integration.edge_run.conftest import Site

__all__ = ["tls"]
AT_ONCE = 3
MARK = "86399.75"


@dataclass(frozen=True)
class Attempt:
    """One run of a script.

    :param outcome: what it left behind.
    :param left: everything that left the VM, byte for byte.
    :param remains: what is still on the VM.
    :param requests: what the store was asked for.
    """

    outcome: Outcome
    left: bytes
    remains: list[str]
    requests: int

    @property
    def record(self) -> dict[str, Any]:
        return self.outcome.record


@dataclass(frozen=True)
class Vm:
    """Where scripts run: with the training environment, the real data, and something to find outside the sandbox.

    :param tls: the store's certificate, its key and the CA.
    :param python: the training environment's interpreter.
    :param data: the blobs.
    :param socket: a Unix socket that others listen to.
    """

    tls: tuple[Path, Path, str]
    python: str
    data: Mapping[str, bytes]
    socket: str

    def run(self, folder: Path, leaks: Sequence[Leak], *, leak: bool) -> Attempt:
        """Run one script that has these leaks, in a home of its own."""
        folder.mkdir()
        with BlobServer(*self.tls) as store, socket.socket(socket.AF_UNIX) as abstract:
            thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                for name, content in self.data.items():
                    store.put(f"breast-cancer/{name}", content)
                site = lay_out(store, folder)
                site.python = self.python
                words = self._words(site)
                abstract.bind(f"\0{words['abstract']}")
                abstract.listen()
                outcome = site.run(
                    write_script(leaks, words),
                    *("--param", f"leak={json.dumps(leak)}"),
                    policy=leaks[0].policy,
                    environment={"AZUREML_RUN_TOKEN": "tok3n", "PYTHONDONTWRITEBYTECODE": ""},
                )
            finally:
                store.shutdown()
                thread.join()
        files = sorted((site.snapshot / "outputs").iterdir())
        left = outcome.log.encode() + b"".join(path.read_bytes() for path in files)
        remains = [name for name in site.remains if not name.startswith("work/living")]
        return Attempt(outcome, left, remains, len(store.requests))

    def _words(self, site: Site) -> dict[str, Any]:
        port = site.store.server_address[1]
        # The data of another run, which lives.
        other = site.home / ".edge-training" / "work" / "living" / "data" / "rows.csv"
        other.parent.mkdir(parents=True)
        other.write_text("private")
        return {
            "port": port,
            "abstract": f"leak-{os.getpid()}-{port}",
            "path_socket": self.socket,
            "grant": site.grant,
            "other_run": other,
            "snapshot": site.snapshot,
            "runner_parent": os.getpid(),
            "mark": MARK,
        }


@pytest.fixture(scope="session")
def data() -> dict[str, bytes]:
    """The training data: twelve blobs."""
    return {name: content for name, content in blobs().items() if name.endswith(".csv")}


@pytest.fixture(scope="session")
def vm(tls: tuple[Path, Path, str], data: dict[str, bytes]) -> Iterator[Vm]:
    """A training VM."""
    with tempfile.TemporaryDirectory(prefix="leak-") as near, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{near}/socket")
        listener.listen(64)
        python = training_env.ensure(Settings.from_environment()) / "bin" / "python"
        yield Vm(tls, str(python), data, f"{near}/socket")


@pytest.fixture(scope="session")
def attempts(vm: Vm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Attempt]:
    """Run each script, with its leak."""
    folder = tmp_path_factory.mktemp("leaks")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [
            pool.submit(vm.run, folder / str(number), [leak], leak=True) for number, leak in enumerate(LEAKS.values())
        ]
        return {name: run.result() for name, run in zip(LEAKS, runs, strict=True)}


@pytest.fixture(scope="session")
def honest(vm: Vm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Attempt]:
    """Run the same scripts without leaking; those under the same policy one after the other in one run."""
    folder, found = tmp_path_factory.mktemp("honest"), {}
    policies = {json.dumps(leak.policy, sort_keys=True) for leak in LEAKS.values()}
    for number, policy in enumerate(sorted(policies)):
        same = {name: leak for name, leak in LEAKS.items() if json.dumps(leak.policy, sort_keys=True) == policy}
        attempt = vm.run(folder / str(number), list(same.values()), leak=False)
        found.update(dict.fromkeys(same, attempt))
    return found
