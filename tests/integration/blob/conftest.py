"""A container of its own for each test, in the local site's blob store."""

from __future__ import annotations

import socket
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import requests.adapters

from edge_training.hooks.stack_hub_blob import StackHubBlobHook
from tests.airflow_harness import airflow_connection, comms, run_task
from tests.integration.training import conftest as training

if TYPE_CHECKING:
    from collections.abc import Iterator

    from azure.storage.blob import ContainerClient

    from tests.airflow_harness import AirflowConnection, FakeComms

__all__ = ["airflow_connection", "comms", "run_task"]

HOST_STYLE = "edgedata.blob.local.azurestack.external"


@pytest.fixture
def blob_fields(local_site: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give the fields of a connection to the blob store that works: IP style, account key, private authority."""
    # The site's own authority must be trusted because of the connection, and not because of the environment.
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    return training.blob_fields(local_site.env)


@pytest.fixture
def hook(blob_fields: dict[str, Any], airflow_connection: AirflowConnection, comms: FakeComms) -> StackHubBlobHook:
    """Give a hook with that connection."""
    airflow_connection("stack_hub_blob", **blob_fields)
    return StackHubBlobHook()


@pytest.fixture
def container(hook: StackHubBlobHook) -> Iterator[ContainerClient]:
    """Give an empty container."""
    client = hook.service().create_container(f"test-{uuid.uuid4().hex}")
    yield client
    client.delete_container()


@pytest.fixture
def host_style(monkeypatch: pytest.MonkeyPatch, blob_fields: dict[str, Any]) -> str:
    """Give the store's host-style endpoint; its name is made known to this process as a Stack Hub's DNS would."""
    resolve = socket.getaddrinfo

    def known(host: Any, *more: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == HOST_STYLE else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", known)
    return f"https://{HOST_STYLE}:{blob_fields['host'].rsplit(':', 1)[1].split('/')[0]}"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[requests.PreparedRequest]:
    """List every request that is really sent."""
    requests_sent: list[requests.PreparedRequest] = []
    send = requests.adapters.HTTPAdapter.send

    def listen(adapter: Any, request: requests.PreparedRequest, *more: Any, **options: Any) -> Any:
        requests_sent.append(request)
        return send(adapter, request, *more, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", listen)
    return requests_sent
