"""Carries package operations out, one after the other, beside the server."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.errors import ServiceError
from local_site.azure_ml.packages.image import Layer, digest_of, make_config, make_manifest, unpacked, write_layer
from local_site.azure_ml.packages.recipe import APP, PORT, SITE_PACKAGES, Recipe, read_recipe
from local_site.azure_ml.packages.registry import Registry, RegistryError

if TYPE_CHECKING:
    from local_site.azure_ml.artifacts.state import Artifacts
    from local_site.azure_ml.database import Row
    from local_site.azure_ml.execution.packages import PipEnvironment
    from local_site.azure_ml.packages.state import Packages
    from local_site.azure_ml.settings import Settings

INSTALL_SECONDS = 900

log = logging.getLogger("local_site.azure_ml")


class PackageError(Exception):
    """The package cannot be made; the message says why."""


class Packager:
    """A thread that makes packages."""

    def __init__(self, settings: Settings, packages: Packages, artifacts: Artifacts) -> None:
        self._settings = settings
        self._packages = packages
        self._artifacts = artifacts
        self._changed = threading.Condition()
        self._ended = False

    def start(self) -> None:
        """Begin with what an earlier process left."""
        threading.Thread(target=self._work, name="packager", daemon=True).start()

    def stop(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Look for work again."""
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        while (row := self._next()) is not None:
            self._carry_out(row)

    def _next(self) -> Row | None:
        """Wait for work; ``None`` means that there is to be no more."""
        with self._changed:
            while not self._ended:
                if (row := self._packages.next()) is not None:
                    return row
                self._changed.wait()
        return None

    def _carry_out(self, row: Row) -> None:
        operation_id = row["operation_id"]
        self._packages.move(operation_id, "Running")
        try:
            location = self._make(row)
        except (PackageError, RegistryError, ServiceError) as error:
            self._fail(row, 400, str(error))
        except Exception as error:  # an operation must end, with a reason, whatever breaks in here
            log.exception("package operation %s broke", operation_id)
            self._fail(row, 500, f"The service failed to make the package: {error!r}")
        else:
            self._say(row, f"Made {location if row['kind'] == 'DockerImage' else 'the build context'}.")
            self._packages.move(operation_id, "Succeeded", location=location)

    def _fail(self, row: Row, status: int, message: str) -> None:
        self._say(row, message)
        error = {"statusCode": status, "code": "PackageFailed", "message": message, "details": []}
        self._packages.move(row["operation_id"], "Failed", error=error)

    def _say(self, row: Row, text: str) -> None:
        self._artifacts.blobs.append(row["log"], f"{utc_text()} {text}\n".encode())

    def _make(self, row: Row) -> str:
        request = json.loads(row["request"])
        recipe = read_recipe(request, self._packages)
        if row["kind"] == "DockerBuildContext":
            return self._context(recipe)
        if not self._settings.registry:
            raise PackageError(
                "This server has no registry to push images to: give it one in its settings file ('registry'), or ask for "
                "a build context (generate_dockerfile=True)."
            )
        registry = Registry(self._settings.registry)
        try:
            return self._image(row, request, recipe, registry)
        finally:
            registry.close()

    # A build context: text that stands in the answer, and files that the SDK fetches by their names.

    def _context(self, recipe: Recipe) -> str:
        requirements = "".join(f"{line}\n" for line in recipe.packages.requirements) if recipe.packages else ""
        entries: list[dict[str, Any]] = [
            _inline("Dockerfile", _dockerfile(recipe, self._base(recipe))),
            _inline("requirements.txt", requirements),
        ]
        for path, artifact in recipe.models.items():
            folder = path.removeprefix(f"{APP}/").rpartition("/")[0]
            entries.append(_remote(f"aml://artifact/{artifact.id}", folder, unpack=False))
        entries += [_remote(asset.uri, "app", unpack=asset.unpack) for asset in recipe.assets]
        key = self._artifacts.blobs.new_key()
        self._artifacts.blobs.write(key, [json.dumps({"context": entries, "environment": None}).encode()])
        return key

    # An image: the base image's layers, the pip packages, the script, and the models last, which change most often.

    def _image(self, row: Row, request: dict[str, Any], recipe: Recipe, registry: Registry) -> str:
        repository, tag = request["imageName"] or "package", request["imageLabel"] or row["operation_id"]
        source, reference = _name_and_reference(self._base(recipe).removeprefix(f"{registry.address}/"))
        self._say(row, f"Reading the base image {registry.address}/{source}:{reference}.")
        base, base_config = registry.image(source, reference)
        with tempfile.TemporaryDirectory(dir=self._settings.state) as scratch:
            layers = self._layers(row, recipe, Path(scratch))
            config = make_config(base_config, layers, recipe.variables, recipe.command, PORT)
            for layer in base["layers"]:
                registry.mount(repository, layer["digest"], source)
            for made in layers:
                pushed = registry.push_file(repository, made.digest, made.file)
                self._say(row, f"Layer {made.digest}: {'pushed' if pushed else 'already there'}.")
            registry.push_bytes(repository, config)
            registry.name(repository, tag, make_manifest(base, config, layers))
        return f"{registry.address}/{repository}:{tag}"

    def _base(self, recipe: Recipe) -> str:
        """Return the image that a package stands on.

        :raises PackageError: when it is in a registry that this server does not know.
        """
        own = self._settings.registry
        if not recipe.base:
            return f"{own['address']}/{own['base']}" if own else "python:3.11-slim-bookworm"
        if own and not recipe.base.startswith(f"{own['address']}/"):
            raise PackageError(
                f"The base image {recipe.base} is not in the registry {own['address']}; push it there first."
            )
        return recipe.base

    def _layers(self, row: Row, recipe: Recipe, scratch: Path) -> list[Layer]:
        blobs = self._artifacts.blobs
        layers = [self._installed(row, recipe.packages)] if recipe.packages and recipe.packages.requirements else []
        code: dict[str, Path] = {}
        for number, asset in enumerate(recipe.assets):
            path = blobs.path(asset.artifact.blob)
            folder = scratch / f"asset-{number}"
            folder.mkdir()
            code |= unpacked(path, folder) if asset.unpack else {asset.name: path}
        layers.append(write_layer([(f"{APP}/{name}", path, False) for name, path in code.items()], scratch / "code.gz"))
        models = [(path, blobs.path(artifact.blob), False) for path, artifact in recipe.models.items()]
        return [*layers, write_layer(models, scratch / "models.gz")]

    def _installed(self, row: Row, packages: PipEnvironment) -> Layer:
        """Return the layer of pip packages, installed once per list of them."""
        kept = self._settings.state / "package-layers" / f"{packages.name}.gz"
        note = kept.with_suffix(".json")
        if note.exists():
            return Layer(kept, **json.loads(note.read_text()))
        self._say(row, f"Installing {', '.join(packages.requirements)} for Python {packages.version}.")
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            target = Path(scratch) / "site-packages"
            self._install(row, packages, target)
            found = [path for path in target.rglob("*") if path.is_file() and not path.is_symlink()]
            files = [(f"{SITE_PACKAGES}/{path.relative_to(target)}", path, path.parent.name == "bin") for path in found]
            layer = write_layer(files, Path(scratch) / "layer.gz")
            layer.file.replace(kept)
            draft = Path(scratch) / "note"
            draft.write_text(json.dumps({"digest": digest_of(kept), "diff_id": layer.diff_id}))
            draft.replace(note)
        return Layer(kept, layer.digest, layer.diff_id)

    def _install(self, row: Row, packages: PipEnvironment, target: Path) -> None:
        uv = Path(sys.prefix) / "bin/uv"
        program = str(uv) if uv.exists() else shutil.which("uv")
        if program is None:
            raise PackageError("uv, which installs the pip packages of an image, is not on this server's PATH.")
        wanted = target.with_name("requirements.txt")
        wanted.write_text("".join(f"{line}\n" for line in packages.requirements))
        command = [
            program,
            "pip",
            "install",
            "--quiet",
            "--target",
            str(target),
            "--only-binary",
            ":all:",
        ]
        command += ["--python", sys.executable, "--python-platform", "x86_64-manylinux_2_28"]
        command += ["--python-version", packages.version, "--link-mode", "copy", "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
        if done.returncode != 0:
            raise PackageError(f"The pip packages cannot be installed: {done.stderr.strip()[-1000:]}")
        self._say(row, "Installed.")


def _name_and_reference(image: str) -> tuple[str, str]:
    """Split ``repository@sha256:...`` or ``repository:tag``."""
    repository, _, digest = image.partition("@")
    if digest:
        return repository, digest
    repository, _, tag = image.rpartition(":")
    return repository, tag


def _inline(path: str, text: str) -> dict[str, Any]:
    content = base64.b64encode(text.encode()).decode()
    return {"entryType": "inline", "encoding": "base64", "path": path, "content": content}


def _remote(uri: str, path: str, *, unpack: bool) -> dict[str, Any]:
    return {"entryType": "remote", "uri": uri, "path": path, "unpack": unpack}


def _dockerfile(recipe: Recipe, base: str) -> str:
    variables = "".join(f"ENV {name}={json.dumps(value)}\n" for name, value in recipe.variables.items())
    return (
        f"FROM {base}\n{variables}"
        f"COPY requirements.txt /tmp/requirements.txt\n"
        f"RUN python3 -m pip install --no-cache-dir --target /{SITE_PACKAGES} -r /tmp/requirements.txt\n"
        f"COPY azureml-models /{APP}/azureml-models\nCOPY app /{APP}\nWORKDIR /{APP}\nEXPOSE {PORT}\n"
        f"ENTRYPOINT {json.dumps(recipe.command)}\n"
    )
