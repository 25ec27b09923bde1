"""The container registry (ACR or any other that speaks the distribution protocol) behind an Airflow connection."""

from __future__ import annotations

import re
from pathlib import Path

from airflow.sdk import BaseHook

from edge_training.exceptions import ConfigurationError
from edge_training.hooks.connections import ConnectionSettings, read_connection
from edge_training.images.entra import PUBLIC_AUTHORITY, ServicePrincipal
from edge_training.images.registry import RegistryClient

_ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")


class ContainerRegistryHook(BaseHook):
    """Opens the registry that holds base images and receives model images.

    The connection (type ``azure_container_registry``): host is the registry's address without a scheme, such as
    ``acme.azurecr.io`` or ``127.0.0.1:5000`` (the port may also stand in the connection's own field); login and password are a
    service principal's, a token's or a user's. Extra ``ca_certificate`` is the path of a PEM file when the registry's certificate
    is signed by a private authority. The registry is always spoken to over https.

    With the extra ``tenant_id``, login and password are a service principal's client id and secret: it gets a token of Entra ID (from
    ``authority``, ``https://login.microsoftonline.com`` when absent), which an Azure registry exchanges for one of its own.

    :param conn_id: the Airflow connection's id.
    :raises ConfigurationError: by every method, when the connection is wrong.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "container_registry"
    conn_type = "azure_container_registry"
    hook_name = "Container Registry"
    extras = frozenset({"authority", "ca_certificate", "tenant_id"})

    def __init__(self, conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.conn_id = conn_id

    def settings(self) -> ConnectionSettings:
        """Return the checked connection."""
        return read_connection(self.conn_id, {self.conn_type}, self.extras, required=("host",))

    def client(self) -> RegistryClient:
        """Return a client of the registry; use it in a ``with`` statement."""
        settings = self.settings()
        ca_certificate = settings.text("ca_certificate")
        return RegistryClient(
            _address(settings),
            user=settings.login,
            password=settings.password,
            ca_certificate=Path(ca_certificate) if ca_certificate else None,
            origin=f"connection '{self.conn_id}'",
            principal=_principal(settings),
        )


def _principal(settings: ConnectionSettings) -> ServicePrincipal | None:
    tenant, authority = settings.text("tenant_id"), settings.text("authority", PUBLIC_AUTHORITY)
    if not tenant:
        return None
    if not (settings.login and settings.password and authority.startswith("https://")):
        raise ConfigurationError(
            f"Connection '{settings.conn_id}' has a 'tenant_id', so login must be a client id, password its secret, and 'authority', "
            "where it is set, an https address."
        )
    return ServicePrincipal(tenant, settings.login, settings.password, authority)


def _address(settings: ConnectionSettings) -> str:
    host = settings.host.removeprefix("https://").rstrip("/")
    if settings.port and ":" not in host:
        host = f"{host}:{settings.port}"
    if not _ADDRESS.fullmatch(host):
        raise ConfigurationError(
            f"Connection '{settings.conn_id}' has host '{settings.host}', expected a registry's address such as "
            "'acme.azurecr.io' or '127.0.0.1:5000', without path; only https is spoken."
        )
    return host
