"""Measures trying out, deploying and going back with the demo's kind of image, and counts what fails during swaps: `make bench-deploy`."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_training.images.base import resolve_base
from edge_training.images.layers import opener
from edge_training.images.media_types import OCI_MANIFEST, Descriptor
from edge_training.images.model_image import ModelImageBuilder, ServedModel, scoring_code, shared_image
from edge_training.images.publish import RegistryPublisher
from edge_training.images.serving import serving_layer
from local_site import base_image
from local_site.settings import Settings
from tests.integration.deployment.support import Host, Load
from tests.integration.images.support import PASSWORD, USER, free_port, linear_onnx, run_registry

if TYPE_CHECKING:
    from edge_training.images.registry import RegistryClient
    from edge_training.images.serving import ServingLayer
    from tests.integration.images.support import Registry

PROJECT = Path(__file__).parents[2]
SCRIPTS = PROJECT / "include/training_scripts/breast_cancer"
SAMPLE = json.loads((SCRIPTS / "sample_request.json").read_text())
COLUMNS = list(SAMPLE["data"][0])
REPOSITORY = "models/breast-cancer"
SWAPS = 7


def serving() -> ServingLayer:
    """Return the layer of the serving dependencies."""
    lock = PROJECT / "include/serving/requirements.lock"
    return serving_layer(lock, Settings.from_environment().cache / "layers")


def push(client: RegistryClient, version: int, folder: Path) -> str:
    """Push an image that says 1 when the first column is above 10 plus the version, and return its digest."""
    file = folder / "model.onnx"
    file.write_bytes(linear_onnx(COLUMNS, [1.0] + [0.0] * 29, -10.0 - version))
    builder = ModelImageBuilder(
        base=resolve_base(client, "base/python:3.11", "linux/amd64"),
        serving=serving(),
        code=scoring_code(PROJECT / "include/serving", ("score.py",)),
        model=ServedModel("breast-cancer", version, file, {"site": "bench"}),
        scratch=folder,
    )
    return RegistryPublisher(client, REPOSITORY).publish(builder.build(), f"v{version}").reference.digest


def push_shared(client: RegistryClient) -> str:
    """Push what all images share, as `prepare_serving_host` does, and return its digest."""
    image, tag = shared_image(resolve_base(client, "base/python:3.11", "linux/amd64"), serving())
    return RegistryPublisher(client, REPOSITORY).publish(image, tag).reference.digest


def probe_of(version: int) -> dict[str, Any]:
    """Return what that image answers to the sample request."""
    scores = [row[COLUMNS[0]] - 10.0 - version for row in SAMPLE["data"]]
    ones = [1 / (1 + math.exp(-2 * score)) for score in scores]
    answer = {"labels": [int(score > 0) for score in scores], "probabilities": [[1 - one, one] for one in ones]}
    return {"cases": [{"request": SAMPLE, "answer": answer}], "tolerance": {"absolute": 1e-4, "relative": 1e-3}}


def push_base(client: RegistryClient) -> None:
    """Push the local site's base image, all of it."""
    base = base_image.ensure(Settings.from_environment())
    for digest, path in base.blobs().items():
        client.put_blob("base/python", Descriptor("", digest, path.stat().st_size), opener(path))
    client.put_manifest("base/python", "3.11", base.manifest, OCI_MANIFEST)


def timed(host: Host, command: str, **order: Any) -> tuple[float, Any]:
    """Run a command on the host, and return how long it took and what came of it."""
    begin = time.monotonic()
    outcome = host.run(command, repository=REPOSITORY, **order)
    if outcome.error is not None:
        raise SystemExit(f"{command} failed: {outcome.error['message']}")
    return time.monotonic() - begin, outcome.value


def measure(registry: Registry, home: Path, scratch: Path) -> None:
    """Measure, and print."""
    told = {"address": registry.address, "user": USER, "password": PASSWORD, "ca_pem": registry.ca.read_text()}
    with registry.client() as client:
        push_base(client)
        shared = push_shared(client)
        digests = [push(client, version, scratch) for version in range(SWAPS + 1)]
    for name in ("a", "b"):
        (home / name).mkdir()
    cold, found = timed(Host(home / "a", told), "verify", digest=digests[0], probe=probe_of(0), requests=50)
    print(
        f"verify_image, nothing on the host yet   {cold:6.2f} s  ({found['pull_seconds']:.2f} s of it to fetch and unpack)"
    )
    host = Host(home / "b", told)
    ahead, _ = timed(host, "pull", digest=shared, compile=True)
    first, found = timed(host, "verify", digest=digests[0], probe=probe_of(0), requests=50)
    print(f"prepare_serving_host, while it trains   {ahead:6.2f} s")
    print(f"verify_image after that, the first one  {first:6.2f} s")
    warm = [timed(host, "verify", digest=digests[one], probe=probe_of(one), requests=50) for one in range(1, SWAPS + 1)]
    print(
        f"verify_image, a new model               {statistics.median(took for took, _ in warm):6.2f} s  (median of {len(warm)})"
    )
    last = warm[-1][1]
    print(
        f"  cold start {last['cold_start_seconds']:.2f} s, p50 {last['p50_seconds'] * 1000:.1f} ms, "
        f"p95 {last['p95_seconds'] * 1000:.1f} ms, {last['memory_bytes'] / 1e6:.0f} MB"
    )
    port = free_port()
    order: dict[str, Any] = {"name": "bench", "port": port, "about": {}}
    try:
        timed(host, "deploy", digest=digests[0], probe=probe_of(0), **order)
        with Load(port, json.dumps(SAMPLE).encode(), "labels") as load:
            took = [
                timed(host, "deploy", digest=digests[one], probe=probe_of(one), **order) for one in range(1, SWAPS + 1)
            ]
            back, _ = timed(host, "deploy", digest=digests[SWAPS - 1], probe=probe_of(SWAPS - 1), **order)
        print(
            f"deploy, a new model beside the old one  {statistics.median(one for one, _ in took):6.2f} s  (median of {len(took)})"
        )
        print(f"going back to the one before            {back:6.2f} s")
        print(
            f"requests during {len(took) + 1} swaps at 50 a second   {len(load.versions)} answered, {len(load.failures)} failed"
        )
    finally:
        host.stop_all()
    if load.failures:
        raise SystemExit(f"Requests failed: {load.failures[:3]}")


def main() -> None:
    """Measure on a host and a registry of its own, and print the figures with the machine."""
    print(f"{platform.platform()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name in ("registry", "home", "scratch"):
            (Path(folder) / name).mkdir()
        with run_registry(Path(folder) / "registry") as registry:
            measure(registry, Path(folder) / "home", Path(folder) / "scratch")


if __name__ == "__main__":
    main()
