"""Lanes: sites beside each other on the same stack, so that several DAG runs are disturbed at once without a word in common."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from demo.settings import PROJECT
from edge_training.site import load_site

if TYPE_CHECKING:
    from pathlib import Path

    from edge_training.site import SiteConfig

PROJECT_NAME = "breast_cancer"


@dataclass(frozen=True)
class Lane:
    """One site: the local one with another name for everything that it leaves behind.

    :param name: the site's name.
    :param folder: holds its training projects, which a harness may change as a person would.
    :param sites: the folder of the site files.
    """

    name: str
    folder: Path
    sites: Path

    @property
    def site(self) -> SiteConfig:
        """The site as the DAG reads it."""
        return load_site(self.sites / f"{self.name}.yaml")

    @property
    def dag_id(self) -> str:
        """The id of its DAG."""
        return f"edge_training_{self.name}"

    @property
    def scripts(self) -> Path:
        """Its training projects."""
        return self.folder / "include" / "training_scripts"

    @property
    def script(self) -> Path:
        """Its training script."""
        return self.scripts / PROJECT_NAME / "train.py"

    def change_code(self, remark: str) -> None:
        """Change the training script, so that its code is new to Azure ML."""
        self.script.write_text(f"{self.script.read_text()}# {remark}\n")


def make_lane(folder: Path, name: str, maximum_duration: str = "10m", serving_port: int | None = None) -> Lane:
    """Write a site file and a copy of the training projects.

    :param folder: where all lanes live.
    :param name: the site's name.
    :param maximum_duration: the site's limit on training time.
    :param serving_port: where the lane's model serves; without one it is not deployed.
    """
    lane = Lane(name, folder / name, folder / "sites")
    content = yaml.safe_load((PROJECT / "include/sites/local.yaml").read_text())
    short = name.replace("_", "-")
    content["name"] = name
    content["compute"]["name"] = f"vm-{short}"
    content["training"] |= {"experiment": short, "maximum_duration": maximum_duration}
    content["model"]["name"] = short
    content["image"]["repository"] = f"models/{short}"
    # What is put into service has one port on this machine, and lanes have nothing in common.
    content.pop("deployment", None)
    if serving_port is not None:
        content["deployment"] = {
            "require_probe": True,
            "targets": [{"kind": "host", "name": short, "port": serving_port}],
        }
    lane.sites.mkdir(parents=True, exist_ok=True)
    (lane.sites / f"{name}.yaml").write_text(yaml.safe_dump(content))
    for part in ("training_scripts", "serving"):
        target = lane.folder / "include" / part
        shutil.copytree(PROJECT / "include" / part, target, ignore=shutil.ignore_patterns("__pycache__"))
    return lane
