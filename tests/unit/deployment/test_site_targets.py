"""A mistake in a site file's targets is told with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_training.deployment.targets import read_targets
from edge_training.exceptions import ConfigurationError
from edge_training.phases import serving_settings
from edge_training.site import load_site

LOCAL = Path(__file__).parents[3] / "include" / "sites" / "local.yaml"
HOST = {"kind": "host", "name": "edge"}
ALL = [
    {**HOST, "port": 10600},
    {"kind": "layout", "name": "carry", "folder": "/srv/carry"},
    {"kind": "kubernetes", "name": "cluster", "folder": "/srv/gitops", "memory": "1Gi"},
    {
        "kind": "app_service",
        "name": "web",
        "resource_id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Web/sites/w",
    },
]


def write(folder: Path, deployment: Any) -> Path:
    path = folder / "local.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(LOCAL.read_text()), "deployment": deployment}))
    return path


def test_every_kind_of_target_reaches_the_operators_as_it_is_written(tmp_path: Path) -> None:
    site = load_site(write(tmp_path, {"targets": ALL}))
    assert [target.name for target in read_targets(serving_settings(site)["targets"])] == [
        "edge",
        "carry",
        "cluster",
        "web",
    ]
    assert site.deployment.host is not None
    assert site.deployment.host.port == 10600


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            {"kind": "mainframe", "name": "x"},
            "deployment.targets.0: found {'kind': 'mainframe', 'name': 'x'}, expected one of 'host', 'layout'",
        ),
        ({"name": "x"}, "deployment.targets.0: found {'name': 'x'}, expected fields with a 'kind'"),
        (
            {**HOST, "prot": 1},
            "deployment.targets.0.host.prot: unknown field, expected one of address, connection, keep",
        ),
        ({**HOST, "name": "Edge"}, "deployment.targets.0.host.name: found 'Edge', expected text of the form"),
        ({**HOST, "port": 0}, "deployment.targets.0.host.port: found 0, expected 1 or more"),
        ({"kind": "layout", "name": "x", "folder": "relative"}, "deployment.targets.0.layout.folder: found 'relative'"),
    ],
)
def test_a_mistake_names_field_value_and_what_is_expected(tmp_path: Path, target: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_site(write(tmp_path, {"targets": [target]}))
    assert said in str(caught.value)


def test_two_targets_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"expected targets with different names \(edge occurs twice\)"):
        load_site(write(tmp_path, {"targets": [HOST, HOST]}))
