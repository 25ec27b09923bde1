"""Plain requests, for what the SDK never sends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from tests.integration.azure_ml.servers import AzureML


class Http:
    """A client that can also misbehave.

    :param server: the server to call.
    """

    def __init__(self, server: AzureML) -> None:
        self.server = server
        self.facts = server.exports()
        self.verify = str(server.folder / "ca.pem")
        self.workspace = (
            f"/subscriptions/{self.facts['LOCAL_SITE_SUBSCRIPTION_ID']}/resourceGroups/{self.facts['LOCAL_SITE_RESOURCE_GROUP']}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.facts['LOCAL_SITE_WORKSPACE']}"
        )

    def log_in(self, **changes: str) -> requests.Response:
        """Ask the authority for a token."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self.facts["LOCAL_SITE_CLIENT_ID"],
            "client_secret": self.facts["LOCAL_SITE_CLIENT_SECRET"],
            "scope": f"{self.server.url}//.default",
            **changes,
        }
        return requests.post(f"{self.server.url}/adfs/oauth2/token", data=form, verify=self.verify, timeout=10)

    def token(self) -> str:
        """Return a good token."""
        return str(self.log_in().json()["access_token"])

    def call(self, method: str, path: str, *, token: str | None = None, **options: Any) -> requests.Response:
        """Send a request with a good token, or with the given one; an empty one means none."""
        text = self.token() if token is None else token
        headers = {"Authorization": f"Bearer {text}"} if text else {}
        url = self.server.url + path.replace("{W}", self.workspace)
        headers |= options.pop("headers", {})
        return requests.request(method, url, headers=headers, verify=self.verify, timeout=10, **options)


def error_of(answer: requests.Response) -> tuple[int, str, str]:
    """Return the status, code and message of an error, which must have Azure's shape."""
    error = answer.json()["error"]
    assert error["details"] == []
    return answer.status_code, error["code"], error["message"]
