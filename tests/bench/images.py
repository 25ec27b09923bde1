"""How long building and pushing a model image takes, ours next to other tools: ``make bench-images``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import secrets
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training.images.layers import opener
from edge_training.images.media_types import OCI_MANIFEST, Descriptor
from edge_training.images.registry import RegistryClient
from edge_training.images.serving import PLATFORM, PYTHON, layer_of_wheels
from edge_training.images.wheels import download_wheels
from local_site import base_image
from local_site.settings import Settings
from tests.bench.image_children import ours
from tests.bench.image_tools import Buildah, Child, Place, Tool, UmociSkopeo, run_child
from tests.integration.images.support import PASSWORD, USER, Registry, run_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_site.base_image import BaseImage

MODEL_BYTES = 5_000_000
LARGE_BYTES = 2_000_000_000
ROUNDS = 7
LOCK = Path(__file__).parents[2] / "include/serving/requirements.lock"
GOAL_CHANGED, GOAL_FIRST, GOAL_PEAK = 0.3, 5.0, 64_000_000


class InProcess:
    """Ours as a task of a running Airflow worker does it: what it imports is there already."""

    name = "ours, in a running worker"

    def missing(self) -> str:
        return ""

    def prepare(self, place: Place) -> None:
        """Do nothing: the base is in the registry."""

    def change(self, place: Place, model: Path, tag: str) -> None:
        ours(place.order(model, tag))


TOOLS: tuple[Tool, ...] = (
    InProcess(),
    Child("ours, a process of its own", "ours"),
    UmociSkopeo(),
    Child("requests", "requests"),
    Child("oras", "oras", "oras"),
    Buildah(),
)


@contextlib.contextmanager
def fresh_registry(folder: Path) -> Iterator[Registry]:
    """Run an empty registry."""
    (folder / "registry").mkdir(parents=True)
    with run_registry(folder / "registry") as registry:
        yield registry


def push_base(registry: Registry, base: BaseImage) -> None:
    """Push the base image with our client."""
    with RegistryClient(registry.address, user=USER, password=PASSWORD, ca_certificate=registry.ca) as client:
        for digest, path in base.blobs().items():
            client.put_blob("base/python", Descriptor("", digest, path.stat().st_size), opener(path))
        client.put_manifest("base/python", "3.11", base.manifest, OCI_MANIFEST)


def measure(tools: list[Tool], folder: Path, base: BaseImage, layers: Path) -> list[dict[str, Any]]:
    """Measure each tool's first image in an empty registry, and then images with another model, the tools by turns.

    By turns, so that what else the machine does meets all of them.
    """
    seconds: dict[str, list[float]] = {tool.name: [] for tool in tools}
    with contextlib.ExitStack() as stack:
        places = {}
        for number, tool in enumerate(tools):
            registry = stack.enter_context(fresh_registry(folder / str(number)))
            places[tool.name] = place = Place(registry, folder / str(number) / "work", base, layers)
            place.folder.mkdir()
            tool.prepare(place)
        for number in range(ROUNDS + 1):
            for tool in tools:
                seconds[tool.name].append(change(tool, places[tool.name], number))
    return [
        {"tool": name, "first": each[0], "changed": statistics.median(each[1:]), "rounds": each[1:]}
        for name, each in seconds.items()
    ]


def change(tool: Tool, place: Place, number: int) -> float:
    """Return the seconds that a tool takes for an image with a model that nobody has seen before."""
    model = place.folder / "model.bin"
    # Weights hardly compress.
    model.write_bytes(os.urandom(MODEL_BYTES))
    start = time.perf_counter()
    if number == 0 and tool.name.startswith("ours"):
        push_base(place.registry, place.base)
    tool.change(place, model, f"v{number}")
    return time.perf_counter() - start


def measure_everything(folder: Path, base: BaseImage, wheels: Path) -> float:
    """Return the seconds of the very first image, with the layer of serving dependencies made from their wheels."""
    with fresh_registry(folder) as registry:
        place = Place(registry, folder / "work", base, folder / "layers")
        place.layers.mkdir()
        place.folder.mkdir()
        model = folder / "model.bin"
        model.write_bytes(os.urandom(MODEL_BYTES))
        order = place.order(model, "v1")
        start = time.perf_counter()
        push_base(registry, base)
        layer_of_wheels(sorted(wheels.glob("*.whl")), LOCK, place.layers)
        ours(order)
        return time.perf_counter() - start


def measure_memory(folder: Path, base: BaseImage, size: int) -> dict[str, float]:
    """Return seconds and peak memory of a process that composes and sends a model of a size."""
    with fresh_registry(folder) as registry:
        model = folder / "model.bin"
        with model.open("wb") as file:
            file.truncate(size)
        place = Place(registry, folder / "work", base, folder)
        return run_child("stream", place.order(model, "large"))


def wheels_of_lock(settings: Settings) -> Path:
    """Return the folder with the wheels of the serving dependencies; they are downloaded once."""
    target = settings.cache / "bench-wheels"
    if not target.exists():
        partial = target.with_name("bench-wheels.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        download_wheels(LOCK, partial, platform=PLATFORM, python=PYTHON)
        partial.rename(target)
    return target


def machine() -> str:
    """Return what the figures were measured on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} x {model or platform.machine()}, {memory:.0f} GB, Python {platform.python_version()}"


def show(results: list[dict[str, Any]], everything: float, memory: dict[str, float], size: int) -> None:
    """Print the table."""
    best = results[0]["changed"]
    print(f"\n{machine()}; a {MODEL_BYTES / 1e6:.0f} MB model, medians of {ROUNDS}\n")
    print(f"{'':30} {'model changed':>15} {'x ours':>8} {'first, with base':>18}")
    for result in results:
        if "missing" in result:
            print(f"{result['tool']:30} not measured: {result['missing']}")
        else:
            ratio = result["changed"] / best
            print(f"{result['tool']:30} {result['changed']:13.3f} s {ratio:8.1f} {result['first']:16.2f} s")
    goals = [
        ("build and push after the model changed", best, GOAL_CHANGED, "s"),
        ("first build and push of everything, from wheels", everything, GOAL_FIRST, "s"),
        (f"peak memory with a model of {size / 1e9:.1f} GB", memory["peak_bytes"] / 1e6, GOAL_PEAK / 1e6, "MB"),
    ]
    print()
    for name, value, goal, unit in goals:
        print(f"{name:50} {value:8.2f} {unit:2} (goal {goal:g} {unit}: {'reached' if value < goal else 'MISSED'})")
    print(f"{'... which took':50} {memory['seconds']:8.2f} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure how long building and pushing a model image takes.")
    parser.add_argument("--large", type=int, default=LARGE_BYTES, help="bytes of the large model (default %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    settings = Settings.from_environment()
    base, wheels = base_image.ensure(settings), wheels_of_lock(settings)
    # buildah takes the path for an image's name, in which not every name of a temporary folder is possible.
    folder = Path(tempfile.gettempdir()) / f"bench-images-{secrets.token_hex(4)}"
    layers = folder / "layers"
    layers.mkdir(parents=True)
    try:
        layer_of_wheels(sorted(wheels.glob("*.whl")), LOCK, layers)
        missing = {tool.name: tool.missing() for tool in TOOLS}
        results = measure([tool for tool in TOOLS if not missing[tool.name]], folder, base, layers)
        results += [{"tool": name, "missing": what} for name, what in missing.items() if what]
        everything = measure_everything(folder / "everything", base, wheels)
        memory = measure_memory(folder / "large", base, arguments.large)
    finally:
        shutil.rmtree(folder)
    show(results, everything, memory, arguments.large)
    if arguments.json:
        found = {"machine": machine(), "tools": results, "everything": everything, "large": memory}
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
