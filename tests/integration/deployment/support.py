"""Small images that serve like a model does, a host of the tests' own, and clients that count what fails."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edge_training.deployment.program import program
from edge_training.images.base import resolve_base
from edge_training.images.compose import RunSettings, compose
from edge_training.images.layers import Layer, LayerFile, write_layer
from edge_training.images.media_types import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, canonical_json, digest_of
from edge_training.images.publish import RegistryPublisher
from local_site import base_image
from local_site.settings import Settings
from tests.integration.images.support import push_raw

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edge_training.images.compression import Compression
    from edge_training.images.registry import RegistryClient

BASE = "base/python:3.11"
NEEDLESS = (
    "usr/share/",
    "var/",
    "perl",
    "gconv",
    "/test/",
    "dist-packages",
    "etc/",
    "usr/sbin/",
    "systemd",
    "lib2to3",
    "idlelib",
)
REPOSITORY = "models/tiny"
# Answers the sum of the request's numbers times a factor, with its version; what it is told to do wrong stands in its environment.
SERVER = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer("Healthy")
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(float(os.environ.get("SLOW", "0")))
        if request.get("die"):
            os._exit(3)
        self.answer({"version": os.environ["VERSION"], "sum": sum(request["data"]) * float(os.environ["FACTOR"])})
    def log_message(self, *arguments):
        pass
if os.environ.get("FAILS"):
    sys.exit("the model is missing")
time.sleep(float(os.environ.get("LATE", "0")))
ThreadingHTTPServer(("127.0.0.1", 5001), Handler).serve_forever()
"""


def push_base(client: RegistryClient) -> None:
    """Push what Python needs of the local site's base image: a fifth of its files, so that hosts unpack it in a moment."""
    base = base_image.ensure(Settings.from_environment())
    layer = max(base.blobs().values(), key=lambda path: path.stat().st_size)
    plain = io.BytesIO()
    with tarfile.open(layer) as source, tarfile.open(fileobj=plain, mode="w") as target:
        for member in source:
            if any(part in member.name for part in NEEDLESS):
                continue
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
    packed = gzip.compress(plain.getvalue(), 1, mtime=0)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(plain.getvalue())]},
    }
    repository, _, tag = BASE.partition(":")
    push_raw(client, repository, tag, (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP), canonical_json(config), packed)


def push_image(
    client: RegistryClient,
    version: int,
    *,
    run_id: str = "",
    files: Mapping[str, bytes] | None = None,
    label: str = "",
    compression: Compression = "none",
    command: tuple[str, ...] = ("python3", "-I", "/app/serve.py"),
    with_model: bool = True,
    top: bytes = b"",
    **environment: str,
) -> str:
    """Push an image of the small server as version ``v<version>`` and return its digest.

    :param run_id: the run that its label names.
    :param files: what its code layer holds besides the server.
    :param label: a further label.
    :param compression: how the layer of the code is packed.
    :param command: what the image runs.
    :param with_model: whether there is a layer above that of the code.
    :param top: the content of a file in one more layer above that.
    :param environment: ``FACTOR`` of its answers, and what it does wrong: ``FAILS``, ``LATE`` and ``SLOW`` (seconds).
    """
    variables = {"VERSION": str(version), "FACTOR": "2", **environment}
    with tempfile.TemporaryDirectory(prefix="tiny-image-") as folder:
        code = write_layer(
            [LayerFile.of_bytes(*one) for one in {"app/serve.py": SERVER.encode(), **(files or {})}.items()],
            Path(folder) / "code",
            root="app",
            created_by="code",
            compression=compression,
        )
        model = write_layer(
            [LayerFile.of_bytes("model/version", str(version).encode())],
            Path(folder) / "model",
            root="model",
            created_by="model",
        )
        settings = RunSettings(
            entrypoint=command,
            environment=variables,
            path_prefix=(),
            user="65532:65532",
            working_directory="/",
            port=5001,
            labels={
                "edge-training.model": "tiny",
                "edge-training.model_version": str(version),
                "edge-training.run_id": run_id or f"run-{version}",
                "label": label,
            },
        )
        layers: tuple[Layer, ...] = (code, model) if with_model else (code,)
        if top:
            file = LayerFile.of_bytes("top/file", top)
            layers += (write_layer([file], Path(folder) / "top", root="top", created_by="top"),)
        image = compose(resolve_base(client, BASE, "linux/amd64"), layers, settings)
        return RegistryPublisher(client, REPOSITORY).publish(image, f"v{version}").reference.digest


def probe(version: int, factor: float = 2.0) -> dict[str, Any]:
    """Return the probe of a version of the small server."""
    case = {"request": {"data": [1, 2.5]}, "answer": {"version": str(version), "sum": 3.5 * factor}}
    return {"cases": [case], "tolerance": {"absolute": 1e-6, "relative": 1e-6}}


@dataclass(frozen=True)
class Outcome:
    """What a command on the host said.

    :param value: its result, or ``None``.
    :param error: what went wrong, or ``None``.
    """

    value: Any
    error: Any


@dataclass
class Host:
    """A home folder in which the program for hosts does its work, without SSH in between.

    :param home: the folder; short, for socket files are in it.
    :param registry: what the program is told about the registry.
    :param names: of the deployments that were made.
    :param python: the host's interpreter with its options.
    :param path: where the host finds programs.
    """

    home: Path
    registry: dict[str, str]
    names: set[str] = field(default_factory=set)
    python: tuple[str, ...] = (sys.executable, "-I")
    path: str = os.environ["PATH"]

    @property
    def program(self) -> Path:
        name, content = program()
        path = self.home / name
        if not path.exists():
            path.write_bytes(content)
        return path

    def start(self, command: str, **order: Any) -> subprocess.Popen[bytes]:
        """Start a command; its order is sent, its result is not waited for."""
        if "name" in order:
            self.names.add(order["name"])
        order = {
            "registry": self.registry,
            "repository": REPOSITORY,
            "seconds": 60,
            "address": "127.0.0.1",
            "keep": 2,
            "compile": False,
            **order,
        }
        process = subprocess.Popen(
            [*self.python, str(self.program), command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"HOME": str(self.home), "PATH": self.path},
            cwd="/",
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, command: str, **order: Any) -> Outcome:
        """Run a command to its end."""
        with self.start(command, **order) as process:
            out, err = process.communicate(timeout=120)
        told = json.loads(out.splitlines()[-1]) if out else None
        assert process.returncode in {0, 3}, err.decode()
        if process.returncode:
            assert told is not None
            return Outcome(None, told["error"])
        return Outcome(told, None)

    def deploy(self, name: str, port: int, digest: str, version: int, **more: Any) -> Outcome:
        """Deploy an image of the small server."""
        order = {"digest": digest, "probe": probe(version), "about": {"version": str(version)}, **more}
        return self.run("deploy", name=name, port=port, **order)

    def stop_all(self) -> None:
        """End every deployment."""
        for name in self.names:
            self.run("stop", name=name)


def ask(port: int, data: object = None, seconds: float = 20.0) -> tuple[int, Any]:
    """Ask what serves on a port once, over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("POST", "/score", json.dumps(data or {"data": [1]}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def answers(port: int) -> bool:
    """Tell whether what serves on a port answers; nobody may listen there yet."""
    try:
        return ask(port)[0] == 200
    except OSError:
        return False


@contextlib.contextmanager
def refused_port(host: Host, digest: str) -> Iterator[int]:
    """Deploy an image as version 1 of deployment ``taken`` on a port that another program holds for as long as the block lasts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        error = host.deploy("taken", port, digest, 1).error
        assert error["kind"] == "port"
        assert f"Port {port} of 127.0.0.1 cannot be taken" in error["message"]
        yield port


@dataclass
class Load:
    """Asks what serves on a port fifty times a second until told to stop, in turn over a new connection and over a kept one.

    :param port: the port.
    :param body: what is asked.
    :param noted: the part of each answer that is noted.
    """

    port: int
    body: bytes = b'{"data": [1, 1]}'
    noted: str = "version"
    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._kept = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._kept.close()

    def _run(self) -> None:
        begin, number = time.monotonic(), 0
        while not self._stop.is_set():
            self._ask(kept=bool(number % 2))
            number += 1
            time.sleep(max(0.0, begin + number / 50 - time.monotonic()))

    def _ask(self, *, kept: bool) -> None:
        connection = self._kept if kept else http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            if kept and connection.sock is None:
                # Not `auto_open`: a connection that the front closed would be opened anew without anybody noticing.
                connection.connect()
                connection.auto_open = 0
            connection.request("POST", "/score", self.body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status == 200:
                self.versions.append(str(body[self.noted]))
            else:
                self.failures.append(f"{answer.status} {body}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failures.append(repr(error))
            connection.auto_open = 1
            connection.close()
        finally:
            if not kept:
                connection.close()
