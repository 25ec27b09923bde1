"""App Service's container setting, through a small resource manager that behaves as its REST API is documented."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from edge_training.deployment.targets import AppServiceTarget, Candidate
from edge_training.exceptions import ConfigurationError, ImageError, ServiceError
from edge_training.hooks.resource_manager import ResourceManagerHook
from edge_training.operators.places import Places
from tests.integration.deployment.support import REPOSITORY
from tests.integration.images.support import PASSWORD, USER, Registry, free_port, write_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.airflow_harness import AirflowConnection

APP = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Web/sites/tiny"
Connect = Callable[..., None]


class Manager(ThreadingHTTPServer):
    """Keeps one web app; ``refuses`` is a status with which it answers every change."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"https://127.0.0.1:{port}"
        self.app: dict[str, Any] = {"tags": {"owner": "somebody"}, "image": "DOCKER|somewhere/else:1"}
        self.refuses = 0
        self.forgets = False


class _Handler(BaseHTTPRequestHandler):
    server: Manager

    def answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> str:
        return self.rfile.read(int(self.headers["Content-Length"])).decode()

    def do_POST(self) -> None:
        form = parse_qs(self.body())
        good = self.path == "/adfs/oauth2/token" and form["resource"] == ["https://management.adfs/1"]
        good = good and (form["client_id"], form["client_secret"]) == (["id"], ["secret"])
        self.answer(*(200, {"access_token": "token"}) if good else (401, {"error": "invalid_client"}))

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/metadata/endpoints":
            login = {"loginEndpoint": f"{self.server.url}/adfs", "audiences": ["https://management.adfs/1"]}
            self.answer(200, {"authentication": login})
        else:
            self.answer(*self.app(path))

    def do_PATCH(self) -> None:
        change, path = json.loads(self.body()), urlsplit(self.path).path
        if self.server.refuses:
            self.answer(self.server.refuses, {"error": {"code": "Conflict"}})
            return
        if path == APP:
            self.server.app["tags"] = change["tags"]
        elif not self.server.forgets:
            self.server.app["image"] = change["properties"]["linuxFxVersion"]
        self.answer(*self.app(path))

    def app(self, path: str) -> tuple[int, Any]:
        if self.headers["Authorization"] != "Bearer token" or "api-version=2018-02-01" not in self.path:
            return 401, {}
        if path == APP:
            return 200, {"tags": self.server.app["tags"]}
        return (
            (200, {"properties": {"linuxFxVersion": self.server.app["image"]}})
            if path == f"{APP}/config/web"
            else (404, {})
        )

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def manager(tmp_path: Any, airflow_connection: AirflowConnection) -> Iterator[Manager]:
    ca, certificate, key = write_certificates(tmp_path)
    server = Manager(free_port())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    airflow_connection(
        "resource_manager",
        conn_type="azure_resource_manager",
        host=server.url,
        login="id",
        password="secret",
        extra={"tenant_id": "adfs", "ca_certificate": str(ca)},
    )
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def places(registry: Registry, airflow_connection: AirflowConnection) -> Iterator[Places]:
    airflow_connection(
        "container_registry",
        conn_type="azure_container_registry",
        host=registry.address,
        login=USER,
        password=PASSWORD,
        extra={"ca_certificate": str(registry.ca)},
    )
    with Places([AppServiceTarget("web", "resource_manager", APP)], "container_registry", 10) as found:
        yield found


def candidate(places: Places, digest: str) -> Candidate:
    return places.described(REPOSITORY, digest)


def test_a_web_app_gets_the_image_by_digest_and_can_go_back(
    manager: Manager, places: Places, registry: Registry, images: tuple[str, str, str]
) -> None:
    first = places.deploy("web", candidate(places, images[0]), {})
    assert (first.kind, first.where, first.decision) == ("app_service", APP, "deployed")
    assert manager.app["image"] == f"DOCKER|{registry.address}/{REPOSITORY}@{images[0]}"
    assert manager.app["tags"]["owner"] == "somebody"
    assert places.deploy("web", candidate(places, images[0]), {}).decision == "unchanged"
    second = places.deploy("web", candidate(places, images[1]), {})
    assert second.previous == images[0]
    assert [one.version for one in places.deployed("web")] == ["2", "1"]
    back = places.deploy("web", places.earlier("web"), {})
    assert (back.digest, back.version, back.previous) == (images[0], "1", images[1])


def test_an_image_that_is_not_in_the_registry_leaves_the_web_app_alone(manager: Manager, places: Places) -> None:
    before = dict(manager.app)
    with pytest.raises(ImageError, match="the web app was not touched"):
        places.deploy("web", Candidate(REPOSITORY, "sha256:" + "0" * 64), {})
    assert manager.app == before


@pytest.mark.parametrize(("status", "retryable"), [(409, False), (503, True)])
def test_a_refusal_is_told_with_its_status(
    manager: Manager, places: Places, images: tuple[str, str, str], status: int, retryable: bool
) -> None:
    manager.refuses = status
    with pytest.raises(ServiceError, match=f"HTTP {status}") as caught:
        places.deploy("web", candidate(places, images[0]), {})
    assert caught.value.retryable is retryable
    assert manager.app["image"] == "DOCKER|somewhere/else:1"


def test_a_change_that_was_answered_but_not_made_is_noticed(
    manager: Manager, places: Places, images: tuple[str, str, str]
) -> None:
    manager.forgets = True
    with pytest.raises(ServiceError, match="names somewhere/else:1 afterwards"):
        places.deploy("web", candidate(places, images[0]), {})


def test_a_wrong_secret_is_told_without_it(
    manager: Manager, airflow_connection: AirflowConnection, tmp_path: Any
) -> None:
    extra = {"tenant_id": "adfs", "ca_certificate": str(tmp_path / "ca.pem")}
    airflow_connection(
        "resource_manager",
        conn_type="azure_resource_manager",
        host=manager.url,
        login="id",
        password="guessed",
        extra=extra,
    )
    with pytest.raises(ServiceError, match="log in as 'id'") as caught:
        ResourceManagerHook().image_of(APP)
    assert "guessed" not in str(caught.value)


def test_an_address_without_encryption_is_refused(airflow_connection: AirflowConnection) -> None:
    airflow_connection(
        "plain",
        conn_type="azure_resource_manager",
        host="http://x",
        login="id",
        password="s",
        extra={"tenant_id": "adfs"},
    )
    with pytest.raises(ConfigurationError, match="https://"):
        ResourceManagerHook("plain").image_of(APP)
