"""Who runs which test when several processes run the tests: those that share servers stay together, and what takes longest begins first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    import pytest

# One process runs the whole folder, for its tests share a site and an Airflow.
TOGETHER = ("tests/system/kill",)
# What would be waited for at the end if it were begun last. Everything else follows as it was collected.
LONGEST_FIRST = (
    "tests/system/kill",
    "tests/system/test_demo.py",
)


class ByServers(LoadFileScheduling):  # type: ignore[misc]  # it has no types
    """Give each process whole files, and folders where :data:`TOGETHER` says so."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return next((folder for folder in TOGETHER if file.startswith(folder + "/")), file)


def rank(item: pytest.Item) -> int:
    """Return the place of a test: small for what begins early."""
    found = (place for place, name in enumerate(LONGEST_FIRST) if item.nodeid.startswith(name))
    return next(found, len(LONGEST_FIRST))
