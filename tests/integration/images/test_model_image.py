"""From the model file to the answer: composed, pushed, pulled by digest, started in a sandbox, asked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.deployment.host import compiled, sandbox
from edge_training.deployment.host.ask import Door, wait_healthy
from edge_training.images.base import resolve_base
from edge_training.images.layers import opener
from edge_training.images.media_types import OCI_MANIFEST, Descriptor
from edge_training.images.model_image import ModelImageBuilder, ServedModel, scoring_code, shared_image
from edge_training.images.publish import RegistryPublisher
from edge_training.images.pull import PulledImage, pull
from edge_training.images.serving import serving_layer
from local_site import base_image
from local_site.settings import Settings
from tests.integration.images.support import Registry, linear_onnx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_training.images.compose import ComposedImage
    from edge_training.images.interfaces import Published
    from edge_training.images.layers import Layer
    from edge_training.images.registry import RegistryClient

BASE = "base/python:3.11"
SECONDS = 60
PROJECT = Path(__file__).parents[3]
SCRIPTS = PROJECT / "include/training_scripts/breast_cancer"
SAMPLE = (SCRIPTS / "sample_request.json").read_bytes()
COLUMNS = list(json.loads(SAMPLE)["data"][0])


@dataclasses.dataclass(frozen=True)
class Site:
    """What the tests of this module share: a registry with a Python base, and the layer of the serving dependencies."""

    registry: Registry
    settings: Settings

    def serving(self) -> Layer:
        return serving_layer(PROJECT / "include/serving/requirements.lock", self.settings.cache / "layers")

    def shared(self, client: RegistryClient) -> ComposedImage:
        return shared_image(resolve_base(client, BASE, "linux/amd64"), self.serving())[0]

    def publish(self, folder: Path, client: RegistryClient, version: int, model: bytes) -> Published:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "model.onnx"
        file.write_bytes(model)
        builder = ModelImageBuilder(
            base=resolve_base(client, BASE, "linux/amd64"),
            serving=self.serving(),
            code=scoring_code(PROJECT / "include/serving", ("score.py",)),
            model=ServedModel("breast-cancer", version, file, {"site": "test", "code_digest": "sha256:c0de"}),
            scratch=folder,
        )
        return RegistryPublisher(client, "models/breast-cancer").publish(builder.build(), f"v{version}")


@pytest.fixture(scope="module")
def site(registry: Registry) -> Site:
    settings = Settings.from_environment()
    base = base_image.ensure(settings)
    with registry.client() as client:
        for digest, path in base.blobs().items():
            client.put_blob("base/python", Descriptor("", digest, path.stat().st_size), opener(path))
        client.put_manifest("base/python", "3.11", base.manifest, OCI_MANIFEST)
    return Site(registry, settings)


@pytest.fixture(scope="module")
def pulled(site: Site) -> Iterator[PulledImage]:
    # Not one of pytest's folders, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="model-image-") as scratch, site.registry.client() as client:
        folder = Path(scratch)
        folder.chmod(0o755)
        model = linear_onnx(COLUMNS, [1.0] + [0.0] * 29, -15.0)
        reference = site.publish(folder / "made", client, 1, model).reference
        yield pull(client, reference.repository, reference.digest, folder)


@contextlib.contextmanager
def started(pulled: PulledImage) -> Iterator[tuple[Door, Path]]:
    """Run an image as a host does, and give where it is asked, and its log."""
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        command = sandbox.command_line("bubblewrap", pulled.root, pulled.run, Path(folder))
        log = Path(folder) / "log"
        with (
            log.open("wb") as stream,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stream, stderr=stream) as process,
        ):
            try:
                door = Door(f"{folder}/{sandbox.SOCKET_NAME}")
                wait_healthy(door, SECONDS, lambda: "" if process.poll() is None else log.read_text())
                yield door, log
            finally:
                process.kill()


def ask(pulled: PulledImage, *requests: Any) -> list[tuple[int, dict[str, Any]]]:
    bodies = [request if isinstance(request, bytes) else json.dumps(request).encode() for request in requests]
    with started(pulled) as (door, _):
        answers = [door.ask("POST", "/score", body) for body in bodies]
    return [(status, json.loads(body)) for status, body in answers]


def test_the_pulled_image_answers_a_prediction(pulled: PulledImage) -> None:
    ((status, told),) = ask(pulled, SAMPLE)
    # The model says 1 when the mean radius is above 15: the sample's rows have 12 and 18.
    assert status == 200, told
    assert told["labels"] == [0, 1]
    assert [sum(row) for row in told["probabilities"]] == pytest.approx([1, 1], abs=1e-5)
    assert told["probabilities"][1][1] > 0.99


def test_rows_may_be_lists_and_columns_in_another_order(pulled: PulledImage) -> None:
    row = [12.0, *[0.0] * 29]
    (_, by_position), (_, by_name) = ask(pulled, {"data": [row]}, {"columns": COLUMNS[::-1], "data": [row[::-1]]})
    assert by_position == by_name
    assert by_position["labels"] == [0]


def test_a_wrong_request_is_answered_with_what_is_wrong_with_it(pulled: PulledImage) -> None:
    ((status, told),) = ask(pulled, {"data": [[1, 2]]})
    assert (status, told) == (400, {"message": "Row 1 has 2 numbers, the model has 30 columns."})


def test_swagger_is_where_every_azure_ml_image_has_it_and_onnx_runtime_does_not_report_to_its_maker(
    pulled: PulledImage,
) -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in pulled.run["Env"]
    with started(pulled) as (door, log):
        assert door.ask("GET", "/swagger.json")[0] == 200
        assert door.ask("POST", "/score", SAMPLE)[0] == 200
        assert "telemetry" not in log.read_text().lower()


def test_the_image_has_no_network_and_cannot_write_to_itself(pulled: PulledImage) -> None:
    code = (
        "import errno, json, os, socket, urllib.request\n"
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "def tried(what):\n"
        "    try: what()\n"
        "    except OSError as error: return type(error).__name__ + ' ' + errno.errorcode[error.errno]\n"
        "    return 'possible'\n"
        "class H(BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "    def do_POST(self):\n"
        "        found = {'network': tried(lambda: socket.create_connection(('192.0.2.1', 80), 2)),\n"
        "                 'write': tried(lambda: open('/opt/x', 'w')), 'user': os.getuid(),\n"
        "                 'environment': sorted(os.environ), 'processes': len([p for p in os.listdir('/proc') if p.isdigit()])}\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(found).encode())\n"
        "HTTPServer(('127.0.0.1', 5001), H).serve_forever()\n"
    )
    run = {**pulled.run, "Entrypoint": ["python3", "-c", code], "Env": ["A=b"]}
    ((_, found),) = ask(dataclasses.replace(pulled, run=run), b"{}")
    assert found["network"] == "OSError ENETUNREACH"
    assert found["write"] == "OSError EROFS"
    assert found["user"] == 65532
    assert set(found["environment"]) - {"PWD", "LC_CTYPE"} == {"A", "PATH"}
    assert found["processes"] <= 3


def test_what_the_shared_image_s_command_compiles_is_all_that_the_server_would_compile_at_its_start(
    pulled: PulledImage, site: Site, tmp_path: Path
) -> None:
    def compiled_at_start() -> set[str]:
        # Python says of each module whether it had to compile it.
        run = {**pulled.run, "Entrypoint": ["python3", "-v", *pulled.run["Entrypoint"][1:]]}
        with started(dataclasses.replace(pulled, run=run)) as (_, log):
            told = re.findall(r"^# code object from '?(/[^\s']+\.py)'?$", log.read_text(), re.MULTILINE)
        return {name.rpartition("/site-packages/")[2] for name in told}

    before = compiled_at_start()
    with site.registry.client() as client:
        config = json.loads(site.shared(client).config)["config"]
    assert compiled.run_and_keep("bubblewrap", config, pulled.root, tmp_path) > 700
    server = "azureml_inference_server_http"
    own = {"/var/azureml-app/score.py", f"{server}/__main__.py", f"{server}/server/entry.py"}
    assert len(before) > 700
    assert compiled_at_start() == own
    assert list(tmp_path.iterdir()) == []


def test_a_new_version_on_the_same_base_sends_only_model_and_configuration(site: Site, tmp_path: Path) -> None:
    with site.registry.client() as client:
        site.publish(tmp_path / "1", client, 1, linear_onnx(COLUMNS, [1.0] * 30, 0.0))
        second = site.publish(tmp_path / "2", client, 2, linear_onnx(COLUMNS, [2.0] * 30, 0.0))
    # Base, serving dependencies, scoring code, model, configuration.
    assert [transfer.way for transfer in second.transfers] == ["present", "present", "present", "sent", "sent"]
