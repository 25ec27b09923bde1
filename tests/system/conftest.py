"""What takes minutes here is told apart in groups, so that one process plays one of them from its first test to its last."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Each has an Airflow and a local site of its own, which its tests share.
GROUPS = {"kill": "kill", "test_chaos.py": "chaos"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell which tests belong together, for ``--dist loadgroup``."""
    for item in items:
        if item.path.is_relative_to(HERE):
            group = GROUPS.get(item.path.relative_to(HERE).parts[0], "demo")
            item.add_marker(pytest.mark.xdist_group(group))
