"""The tools that a model image could be built and pushed with instead, as far as they are installed here."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tests.integration.images.support import PASSWORD, USER

if TYPE_CHECKING:
    from local_site.base_image import BaseImage
    from tests.integration.images.support import Registry

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """Where a tool works, and what it works on.

    :param registry: the registry that it pushes to.
    :param folder: a folder of its own.
    :param base: the base image on this machine.
    :param layers: the folder with our finished layer of serving dependencies.
    """

    registry: Registry
    folder: Path
    base: BaseImage
    layers: Path

    def order(self, model: Path, tag: str) -> dict[str, Any]:
        """Return what a child process is told."""
        scratch = self.folder / tag
        scratch.mkdir(parents=True, exist_ok=True)
        files = {path.name: str(path) for path in self.base.blobs().values()}
        return {
            "registry": self.registry.address,
            "user": USER,
            "password": PASSWORD,
            "ca": str(self.registry.ca),
            "base": "base/python:3.11",
            "repository": "models/bench",
            "tag": tag,
            "model": str(model),
            "scratch": str(scratch),
            "layers": str(self.layers),
            "lock": str(PROJECT / "include/serving/requirements.lock"),
            "code": str(PROJECT / "include/serving/score.py"),
            "base_layers": [path for name, path in files.items() if name.startswith("layer")],
            "base_config": files["config.json"],
            "base_manifest": str(Path(files["config.json"]).with_name("manifest.json")),
        }


class Tool(Protocol):
    """One way of making a model image."""

    name: str

    def missing(self) -> str:
        """Return what has to be installed, ``""`` when nothing."""
        ...

    def prepare(self, place: Place) -> None:
        """Bring the base to where the tool wants it, on this machine."""
        ...

    def change(self, place: Place, model: Path, tag: str) -> None:
        """Build the image with a model and push it."""
        ...


class Child:
    """A Python program of :mod:`tests.bench.image_children`, start-up included.

    :param name: what the table calls it.
    :param way: which program.
    :param module: what it needs.
    """

    def __init__(self, name: str, way: str, module: str = "requests") -> None:
        self.name, self._way, self._module = name, way, module

    def missing(self) -> str:
        return "" if importlib.util.find_spec(self._module) else f"pip install {self._module}"

    def prepare(self, place: Place) -> None:
        """Do nothing: it reads the base's files."""

    def change(self, place: Place, model: Path, tag: str) -> None:
        run_child(self._way, place.order(model, tag))


def run_child(way: str, order: dict[str, Any]) -> dict[str, float]:
    """Run one program of :mod:`tests.bench.image_children` and return what it measured."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.bench.image_children", way]
    done = subprocess.run(
        command, input=json.dumps(order), capture_output=True, text=True, env=environment, check=False, cwd=PROJECT
    )
    if done.returncode:
        raise RuntimeError(f"{way} failed: {done.stderr[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


class UmociSkopeo:
    """umoci adds the layer to an OCI layout, skopeo pushes it."""

    name = "umoci + skopeo"

    def missing(self) -> str:
        return _programs("umoci", "skopeo")

    def prepare(self, place: Place) -> None:
        write_layout(place.base, place.folder / "layout")
        _certificates(place)

    def change(self, place: Place, model: Path, tag: str) -> None:
        layer = place.folder / "model.tar"
        with tarfile.open(layer, "w") as tar:
            tar.add(model, "model.bin")
        layout = place.folder / "layout"
        _run("umoci", "raw", "add-layer", "--image", f"{layout}:base", "--tag", tag, str(layer))
        target = f"docker://{place.registry.address}/models/bench:{tag}"
        certificates = f"--dest-cert-dir={place.folder / 'certificates'}"
        _run(
            "skopeo", "copy", "--quiet", certificates, f"--dest-creds={USER}:{PASSWORD}", f"oci:{layout}:{tag}", target
        )


class Buildah:
    """buildah builds without a RUN step, on overlay, and pushes."""

    name = "buildah"

    def missing(self) -> str:
        return _programs("buildah") or ("" if os.geteuid() == 0 else "root (its overlay storage needs it here)")

    def prepare(self, place: Place) -> None:
        write_layout(place.base, place.folder / "layout")
        _certificates(place)
        _run(*self._command(place), "pull", "--quiet", f"oci:{place.folder / 'layout'}:base")
        listed = _run(*self._command(place), "images", "--quiet", "--no-trunc").split()
        context = place.folder / "context"
        context.mkdir()
        (context / "Dockerfile").write_text(f"FROM {listed[0].removeprefix('sha256:')}\nCOPY model.bin /model.bin\n")

    def change(self, place: Place, model: Path, tag: str) -> None:
        context = place.folder / "context"
        shutil.copyfile(model, context / "model.bin")
        command = self._command(place)
        options = ["--isolation", "chroot", "--pull-never", "--quiet", "--tag", f"bench:{tag}"]
        _run(*command, "build", *options, str(context))
        target = f"docker://{place.registry.address}/models/bench:{tag}"
        certificates = f"--cert-dir={place.folder / 'certificates'}"
        _run(*command, "push", "--quiet", certificates, f"--creds={USER}:{PASSWORD}", f"localhost/bench:{tag}", target)

    def _command(self, place: Place) -> list[str]:
        storage = place.folder / "storage"
        return ["buildah", f"--root={storage}", f"--runroot={storage}-run", "--storage-driver=overlay"]


def write_layout(base: BaseImage, folder: Path) -> None:
    """Write the base as an OCI layout, tag ``base``."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    for digest, path in base.blobs().items():
        shutil.copyfile(path, blobs / digest.removeprefix("sha256:"))
    (blobs / base.digest.removeprefix("sha256:")).write_bytes(base.manifest)
    described = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": base.digest,
        "size": len(base.manifest),
        "annotations": {"org.opencontainers.image.ref.name": "base"},
    }
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def _certificates(place: Place) -> None:
    folder = place.folder / "certificates"
    folder.mkdir()
    shutil.copyfile(place.registry.ca, folder / "ca.crt")


def _programs(*names: str) -> str:
    missing = [name for name in names if shutil.which(name) is None]
    return f"apt-get install {' '.join(missing)}" if missing else ""


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return done.stdout
