"""Fixtures that tests of every kind share: a local site of their own."""

from __future__ import annotations

import gc
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import memory
from tests.order import ByServers, rank
from tests.running_site import RunningSite

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whoever starts the tests in a script's background hands them a SIGINT that is ignored, and they hand it on to what they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Importing Airflow and the SDKs makes hundreds of thousands of objects that stay; by default Python would look through them all the time.
gc.set_threshold(50_000)


def _set_daemon(self: threading.Thread, daemonic: bool) -> None:
    self.daemon = daemonic


# The SDK's timers call this deprecated method in threads of their own: now and then while pytest, between two tests, makes every warning
# an error and has not yet made its exceptions.
threading.Thread.setDaemon = _set_daemon  # type: ignore[method-assign]


_in_memory = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary files in memory, those of the processes that run the tests too: they are started after this."""
    if (folder := memory.move_in()) is not None:
        config.stash[_in_memory] = folder


@pytest.hookimpl(trylast=True)  # after what tests share was ended
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove them, unless somebody may want to look at them; then the next session does."""
    folder = session.config.stash.get(_in_memory, None)
    if folder is not None and exitstatus != pytest.ExitCode.TESTS_FAILED:
        memory.move_out(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=rank)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByServers | None:
    """Keep together what shares its servers, where whole files are given out."""
    return ByServers(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def local_site() -> Iterator[RunningSite]:
    """Yield a local site with all of its services, which nobody else uses; it is ended with the tests."""
    with tempfile.TemporaryDirectory(prefix="local-site-") as folder:
        site = RunningSite.on_free_ports(Path(folder) / "site")
        try:
            site.up()
            yield site
        finally:
            site.command("down")


@pytest.fixture(scope="session")
def local_site_env(local_site: RunningSite) -> Iterator[dict[str, str]]:
    """Put the variables of the local site into this process, for SDKs that read them when they are imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in local_site.env.items():
            patch.setenv(name, value)
        yield local_site.env
