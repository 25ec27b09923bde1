"""A site and an Airflow for all tests of this folder, with several DAGs, so that one test need not wait for another's DAG run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.chaos.lanes import make_lane
from tests.system.chaos.stack import ChaosStack
from tests.system.kill.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.system.chaos.lanes import Lane

LIMIT_SECONDS = 15
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    # Airflow's own limit does not count the time for which a task is deferred; the site's limit has to hold all the same.
    "limited": {"poll_run": {"execution_timeout": 5}},
    # Waits in the worker, so that a signal to the worker finds it there.
    "waiting": {"poll_run": {"deferrable": False}},
}


def lanes(folder: Path) -> list[Lane]:
    return [
        make_lane(folder, "first"),
        make_lane(folder, "second"),
        make_lane(folder, "third"),
        make_lane(folder, "limited", maximum_duration=f"{LIMIT_SECONDS}s"),
        make_lane(folder, "waiting"),
    ]


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosStack]:
    """Bring everything up."""
    before = dict(os.environ)
    stack = ChaosStack(tmp_path_factory.mktemp("kill"), lanes, CHANGES)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def first(stack: ChaosStack) -> Scene:
    """Return the first of the usual DAGs."""
    return Scene(stack, "first")


@pytest.fixture
def second(stack: ChaosStack) -> Scene:
    """Return the second of the usual DAGs."""
    return Scene(stack, "second")


@pytest.fixture
def third(stack: ChaosStack) -> Scene:
    """Return the third of the usual DAGs."""
    return Scene(stack, "third")


@pytest.fixture
def limited(stack: ChaosStack) -> Scene:
    """Return the DAG whose site allows few seconds of training."""
    return Scene(stack, "limited")


@pytest.fixture
def waiting(stack: ChaosStack) -> Scene:
    """Return the DAG that waits for its run in the worker."""
    return Scene(stack, "waiting")
