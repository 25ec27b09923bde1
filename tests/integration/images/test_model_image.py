"""From the model file to the answer: composed, pushed, pulled by digest, started in a sandbox, asked."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ImageError
from edge_training.images.base import resolve_base
from edge_training.images.layers import opener
from edge_training.images.media_types import OCI_MANIFEST, Descriptor
from edge_training.images.model_image import ModelImageBuilder, ServedModel, scoring_code
from edge_training.images.publish import RegistryPublisher
from edge_training.images.pull import PulledImage, pull
from edge_training.images.sandbox import Isolation, answer
from edge_training.images.serving import serving_layer
from local_site import base_image
from local_site.settings import Settings
from tests.integration.images.support import Registry, free_port, linear_onnx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_training.images.interfaces import Published
    from edge_training.images.registry import RegistryClient

SECONDS = 60
PROJECT = Path(__file__).parents[3]
SCRIPTS = PROJECT / "include/training_scripts/breast_cancer"
SAMPLE = (SCRIPTS / "sample_request.json").read_bytes()
COLUMNS = list(json.loads(SAMPLE)["data"][0])
ISOLATIONS: list[Isolation] = ["bubblewrap", "chroot"] if os.geteuid() == 0 else ["bubblewrap"]


@dataclasses.dataclass(frozen=True)
class Site:
    """What the tests of this module share: a registry with a Python base, and the layer of the serving dependencies."""

    registry: Registry
    settings: Settings

    def publish(self, folder: Path, client: RegistryClient, version: int, model: bytes) -> Published:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "model.onnx"
        file.write_bytes(model)
        builder = ModelImageBuilder(
            base=resolve_base(client, "base/python:3.11", "linux/amd64"),
            serving=serving_layer(PROJECT / "include/serving/requirements.lock", self.settings.cache / "layers"),
            code=scoring_code(SCRIPTS, ("score.py",)),
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


def ask(pulled: PulledImage, request: Any, isolation: Isolation | None = None) -> tuple[int, dict[str, Any]]:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    got = answer(pulled, body, SECONDS, isolation=isolation)
    return got.status, json.loads(got.body)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_pulled_image_answers_a_prediction(pulled: PulledImage, isolation: Isolation) -> None:
    # A plain change of root shares this machine's network, where the image's own port may be taken.
    port = str(free_port())
    command = [port if part == "5001" else part for part in pulled.run["Entrypoint"]]
    run = {**pulled.run, "Entrypoint": command, "ExposedPorts": {f"{port}/tcp": {}}}
    status, told = ask(dataclasses.replace(pulled, run=run), SAMPLE, isolation)
    # The model says 1 when the mean radius is above 15: the sample's rows have 12 and 18.
    assert status == 200, told
    assert told["labels"] == [0, 1]
    assert [sum(row) for row in told["probabilities"]] == pytest.approx([1, 1], abs=1e-5)
    assert told["probabilities"][1][1] > 0.99


def test_rows_may_be_lists_and_columns_in_another_order(pulled: PulledImage) -> None:
    row = [12.0, *[0.0] * 29]
    _, by_position = ask(pulled, {"data": [row]})
    _, by_name = ask(pulled, {"columns": COLUMNS[::-1], "data": [row[::-1]]})
    assert by_position == by_name
    assert by_position["labels"] == [0]


def test_a_wrong_request_is_answered_with_what_is_wrong_with_it(pulled: PulledImage) -> None:
    status, told = ask(pulled, {"data": [[1, 2]]})
    assert (status, told) == (400, {"message": "Row 1 has 2 numbers, the model has 30 columns."})


def test_swagger_is_where_every_azure_ml_image_has_it(pulled: PulledImage) -> None:
    # Healthy is what answers GET with 200; by default that is "/", which all other tests of this module wait for.
    assert answer(pulled, SAMPLE, SECONDS, health_path="/swagger.json").status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests of this module run as an ordinary user already")
def test_an_ordinary_user_can_ask_the_image(pulled: PulledImage) -> None:
    code = (
        "import json, pathlib, sys; order = json.load(sys.stdin); sys.path.insert(0, order['path'])\n"
        "from edge_training.images.pull import PulledImage\n"
        "from edge_training.images.sandbox import answer\n"
        "image = PulledImage('test', pathlib.Path(order['root']), order['run'], 0, 0.0)\n"
        "told = answer(image, order['request'].encode(), order['seconds'])\n"
        "print(told.status, told.isolation)"
    )
    # That user may be unable to read the project, so it gets a copy; the system's Python it can run.
    path = pulled.root.parent / "code"
    shutil.copytree(PROJECT / "plugins/edge_training", path / "edge_training")
    order = {"path": str(path), "root": str(pulled.root), "run": dict(pulled.run), "request": SAMPLE.decode()}
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", code],
        input=json.dumps({**order, "seconds": SECONDS}),
        capture_output=True,
        text=True,
        cwd="/",
        timeout=2 * SECONDS,
        check=False,
    )
    assert done.stdout.split() == ["200", "bubblewrap"], done.stderr


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
    _, found = ask(dataclasses.replace(pulled, run=run), b"{}", "bubblewrap")
    assert found["network"] == "OSError ENETUNREACH"
    assert found["write"] == "OSError EROFS"
    assert found["user"] == 65532
    assert set(found["environment"]) - {"PWD", "LC_CTYPE"} == {"A", "PATH"}
    assert found["processes"] <= 3


def test_an_image_that_does_not_start_is_told_with_the_end_of_its_log(pulled: PulledImage) -> None:
    run = {**pulled.run, "Entrypoint": ["python3", "-c", "raise SystemExit('the model is missing')"]}
    with pytest.raises(ImageError, match="exit code 1 before it was healthy") as caught:
        answer(dataclasses.replace(pulled, run=run), b"{}", SECONDS)
    assert "the model is missing" in str(caught.value)


def test_an_image_whose_program_is_not_there_is_told(pulled: PulledImage) -> None:
    run = {**pulled.run, "Entrypoint": ["/no/such/program"]}
    with pytest.raises(ImageError, match="'/no/such/program' cannot be run"):
        answer(dataclasses.replace(pulled, run=run), b"{}", SECONDS)


def test_an_image_that_never_gets_healthy_is_given_up_and_ended(pulled: PulledImage) -> None:
    run = {**pulled.run, "Entrypoint": ["python3", "-c", "import time; print('waiting', flush=True); time.sleep(600)"]}
    with pytest.raises(ImageError, match="was not healthy") as caught:
        answer(dataclasses.replace(pulled, run=run), b"{}", 0.5)
    assert "waiting" in str(caught.value)


def test_a_new_version_on_the_same_base_sends_only_model_and_configuration(site: Site, tmp_path: Path) -> None:
    with site.registry.client() as client:
        site.publish(tmp_path / "1", client, 1, linear_onnx(COLUMNS, [1.0] * 30, 0.0))
        second = site.publish(tmp_path / "2", client, 2, linear_onnx(COLUMNS, [2.0] * 30, 0.0))
    # Base, serving dependencies, scoring code, model, configuration.
    assert [transfer.way for transfer in second.transfers] == ["present", "present", "present", "sent", "sent"]


def test_onnx_runtime_does_not_report_to_its_maker(pulled: PulledImage) -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in pulled.run["Env"]
    log = answer(pulled, SAMPLE, SECONDS, isolation="bubblewrap").log
    assert "telemetry" not in log.lower()
