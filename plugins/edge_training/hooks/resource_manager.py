"""Azure's resource manager, in Azure or on an Azure Stack Hub, as far as web apps for containers need it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import requests
from airflow.sdk import BaseHook

from edge_training.exceptions import ConfigurationError, ServiceError
from edge_training.hooks.connections import ConnectionSettings, read_connection

SERVICE = "resource manager"
BEFORE_TAG = "edge-training-before"
_PREFIX = "DOCKER|"
_TIMEOUT_SECONDS = (10.0, 60.0)


class ResourceManagerHook(BaseHook):
    """Reads and sets which image a web app runs.

    The connection (type ``azure_resource_manager``): host is the resource manager's address, such as
    ``https://management.local.azurestack.external``; login and password are a service principal's client id and secret. Extras:
    ``tenant_id`` (required; ``adfs`` where ADFS is), ``login_endpoint`` and ``audience`` (asked of the resource manager when absent),
    ``api_version`` of App Service, and ``ca_certificate``, a PEM file.

    :param conn_id: the Airflow connection's id.
    :raises ConfigurationError: by every method, when the connection is wrong.
    :raises ServiceError: by every method, when the resource manager refuses or does not answer.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "resource_manager"
    conn_type = "azure_resource_manager"
    hook_name = "Azure Resource Manager"
    extras = frozenset({"tenant_id", "login_endpoint", "audience", "api_version", "ca_certificate"})

    def __init__(self, conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.conn_id = conn_id

    @cached_property
    def connection(self) -> ConnectionSettings:
        """Return the checked connection."""
        required = ("host", "login", "password", "tenant_id")
        settings = read_connection(self.conn_id, {self.conn_type}, self.extras, required=required)
        if not settings.host.startswith("https://"):
            raise ConfigurationError(
                f"Connection '{self.conn_id}' has host '{settings.host}', expected an address that begins with https://."
            )
        return settings

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        # Otherwise REQUESTS_CA_BUNDLE and ~/.netrc of the worker would override the connection's settings.
        session.trust_env = False
        if ca_certificate := self.connection.text("ca_certificate"):
            if not Path(ca_certificate).is_file():
                raise ConfigurationError(
                    f"The CA certificate '{ca_certificate}' of connection '{self.conn_id}' does not exist on this machine."
                )
            session.verify = ca_certificate
        return session

    def image_of(self, resource_id: str) -> str:
        """Return the image that a web app is set to run, or ``""`` when it is set to run none.

        :param resource_id: the web app's ARM resource id.
        """
        found = self._send("GET", self._address(resource_id, "/config/web"), f"read the settings of {resource_id}")
        properties = found.get("properties")
        value = str((properties if isinstance(properties, dict) else {}).get("linuxFxVersion") or "")
        return value.removeprefix(_PREFIX) if value.startswith(_PREFIX) else ""

    def image_before(self, resource_id: str) -> str:
        """Return the image that a web app ran before, as it was noted in the app's tags, or ``""``.

        :param resource_id: the web app's ARM resource id.
        """
        return self._tags(resource_id).get(BEFORE_TAG, "")

    def set_image(self, resource_id: str, reference: str, before: str) -> None:
        """Set the image that a web app runs, note the one before in the app's tags, and make sure that it was taken.

        :param resource_id: the web app's ARM resource id.
        :param reference: ``registry/repository@sha256:...``.
        :param before: the image that it is set to run now, or ``""``.
        """
        if before:
            tags = {**self._tags(resource_id), BEFORE_TAG: before}
            self._send("PATCH", self._address(resource_id), f"tag {resource_id}", json={"tags": tags})
        body = {"properties": {"linuxFxVersion": _PREFIX + reference}}
        self._send("PATCH", self._address(resource_id, "/config/web"), f"set the image of {resource_id}", json=body)
        if (found := self.image_of(resource_id)) != reference:
            raise ServiceError(
                f"The resource manager took image {reference} for {resource_id}, but names {found or 'none'} afterwards: "
                "look at the web app's configuration in the portal.",
                service=SERVICE,
                retryable=False,
            )

    def _tags(self, resource_id: str) -> dict[str, str]:
        tags = self._send("GET", self._address(resource_id), f"read the tags of {resource_id}").get("tags")
        return {str(name): str(value) for name, value in tags.items()} if isinstance(tags, dict) else {}

    def _address(self, resource_id: str, part: str = "") -> str:
        version = self.connection.text("api_version", "2018-02-01")
        return f"{self.connection.host.rstrip('/')}{resource_id}{part}?api-version={version}"

    def _send(self, method: str, url: str, doing: str, **more: Any) -> dict[str, Any]:
        return self._json(method, url, doing, headers={"Authorization": f"Bearer {self._token}"}, **more)

    @cached_property
    def _token(self) -> str:
        settings = self.connection
        login, audience = settings.text("login_endpoint"), settings.text("audience")
        if not (login and audience):
            url = f"{settings.host.rstrip('/')}/metadata/endpoints?api-version=2015-01-01"
            found = self._json("GET", url, "ask where to log in").get("authentication") or {}
            login = login or str(found.get("loginEndpoint", ""))
            audience = audience or str((found.get("audiences") or [""])[0])
        form = {
            "grant_type": "client_credentials",
            "client_id": settings.login,
            "client_secret": settings.password,
            "resource": audience,
        }
        # Where ADFS is, its address ends in the word that also stands for the tenant.
        tenant = settings.text("tenant_id")
        root = login.rstrip("/")
        root = root if root.endswith(f"/{tenant}") else f"{root}/{tenant}"
        answer = self._json("POST", f"{root}/oauth2/token", f"log in as '{settings.login}'", data=form)
        return str(answer.get("access_token", ""))

    def _json(self, method: str, url: str, doing: str, **more: Any) -> dict[str, Any]:
        try:
            response = self._session.request(method, url, timeout=_TIMEOUT_SECONDS, **more)
        except requests.RequestException as error:
            raise ServiceError(
                f"Could not {doing}: {url.partition('?')[0]} did not answer ({type(error).__name__}), connection '{self.conn_id}'.",
                service=SERVICE,
            ) from error
        if not response.ok:
            raise ServiceError(
                f"Could not {doing} with connection '{self.conn_id}': HTTP {response.status_code} {response.text[:300]}",
                service=SERVICE,
                status=response.status_code,
            )
        try:
            value = response.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ServiceError(f"Could not {doing}: the answer is not a JSON object.", service=SERVICE, retryable=False)
        return value
