"""One way of building and pushing a model image, as a process of its own: ``python -m tests.bench.image_children WAY``.

The order is a JSON object on standard input; how long it took and the most memory it used are one on standard output.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import json
import re
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image."


def ours(order: dict[str, Any]) -> None:
    """Compose and publish as the pipeline does."""
    from edge_training.images.base import resolve_base
    from edge_training.images.model_image import ModelImageBuilder, ServedModel
    from edge_training.images.publish import RegistryPublisher
    from edge_training.images.registry import RegistryClient
    from edge_training.images.serving import serving_layer

    folder, model = Path(order["scratch"]), Path(order["model"])
    with RegistryClient(
        order["registry"], user=order["user"], password=order["password"], ca_certificate=Path(order["ca"])
    ) as client:
        base = resolve_base(client, order["base"], None)
        serving = serving_layer(Path(order["lock"]), Path(order["layers"]))
        served = ServedModel("bench", 1, model, {})
        image = ModelImageBuilder(base, serving, {"score.py": Path(order["code"])}, served, folder).build()
        RegistryPublisher(client, order["repository"]).publish(image, order["tag"])


def plain(order: dict[str, Any]) -> None:
    """Build with ``tarfile`` and ``gzip`` and push with ``requests``, as a first script would."""
    import requests

    session = requests.Session()
    session.trust_env, session.verify, session.auth = False, order["ca"], (order["user"], order["password"])
    root = f"https://{order['registry']}/v2"

    def upload(data: bytes, _media_type: str) -> None:
        location = session.post(f"{root}/{order['repository']}/blobs/uploads/").headers["Location"]
        query = {"digest": _digest(data)}
        headers = {"Content-Type": "application/octet-stream"}
        session.put(location, params=query, data=data, headers=headers).raise_for_status()

    layer, config, manifest = _image(order, 1)
    for name in order["base_layers"]:
        digest = f"sha256:{hashlib.sha256(Path(name).read_bytes()).hexdigest()}"
        if session.head(f"{root}/{order['repository']}/blobs/{digest}").status_code != requests.codes.ok:
            upload(Path(name).read_bytes(), "")
    upload(layer, f"{OCI}layer.v1.tar+gzip")
    upload(config, f"{OCI}config.v1+json")
    headers = {"Content-Type": f"{OCI}manifest.v1+json"}
    url = f"{root}/{order['repository']}/manifests/{order['tag']}"
    session.put(url, data=manifest, headers=headers).raise_for_status()


def oras(order: dict[str, Any]) -> None:
    """Build with ``tarfile`` and ``gzip`` at its default level and push with the library ``oras``."""
    library: Any = importlib.import_module("oras.client")
    client = library.OrasClient(hostname=order["registry"], tls_verify=order["ca"], auth_backend="basic")
    client.session.trust_env = False
    # Otherwise it sends each body without the password first.
    client.session.auth = (order["user"], order["password"])
    client.auth.set_basic_auth(order["user"], order["password"])
    container = client.get_container(f"{order['registry']}/{order['repository']}:{order['tag']}")
    layer, config, manifest = _image(order, 9)
    files = [Path(name) for name in order["base_layers"]]
    for name, data in (("layer", layer), ("config", config)):
        files.append(Path(order["scratch"]) / name)
        files[-1].write_bytes(data)
    for file in files:
        with file.open("rb") as stream:
            digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        described = {"mediaType": "application/octet-stream", "digest": digest, "size": file.stat().st_size}
        if not client.blob_exists(described, container):
            client.upload_blob(str(file), container, described).raise_for_status()
    client.upload_manifest(json.loads(manifest), container).raise_for_status()


def stream(order: dict[str, Any]) -> None:
    """Compose and send one layer, however large the model is."""
    from edge_training.images.layers import LayerFile, opener, write_layer
    from edge_training.images.registry import RegistryClient

    file = LayerFile.of_path("opt/model.bin", Path(order["model"]))
    target = Path(order["scratch"]) / "layer.tar"
    layer = write_layer([file], target, root="opt", created_by="model", compression="none")
    with RegistryClient(
        order["registry"], user=order["user"], password=order["password"], ca_certificate=Path(order["ca"])
    ) as client:
        client.put_blob(order["repository"], layer.descriptor, opener(layer.file))


def _image(order: dict[str, Any], level: int) -> tuple[bytes, bytes, bytes]:
    """Return the layer of the model, the configuration and the manifest."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(order["model"], "model.bin")
    layer = gzip.compress(packed.getvalue(), level, mtime=0)
    config = json.loads(Path(order["base_config"]).read_text())
    config["rootfs"]["diff_ids"].append(_digest(packed.getvalue()))
    config_bytes = json.dumps(config).encode()
    manifest = json.loads(Path(order["base_manifest"]).read_text())
    described = {"digest": _digest(layer), "size": len(layer), "mediaType": f"{OCI}layer.v1.tar+gzip"}
    manifest["layers"].append(described)
    manifest["config"] |= {"digest": _digest(config_bytes), "size": len(config_bytes)}
    return layer, config_bytes, json.dumps(manifest).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


WAYS = {"ours": ours, "requests": plain, "oras": oras, "stream": stream}


def main() -> None:
    """Do what the order says."""
    order = json.load(sys.stdin)
    start = time.perf_counter()
    WAYS[sys.argv[1]](order)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_bytes": _peak_bytes()}))


def _peak_bytes() -> int:
    # Not getrusage, which counts what the parent process had before this program was started in its copy.
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) * 1024


if __name__ == "__main__":
    main()
