"""Who may come in, and how those are refused who may not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import jwt
import pytest

from tests.integration.azure_ml.servers import AzureML
from tests.integration.azure_ml.web import Http, error_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.azure_ml.sdk import Sdk


def test_the_sdk_opens_the_workspace_with_a_service_principal(sdk: Sdk, server: AzureML) -> None:
    assert sdk.workspace.name == server.exports()["LOCAL_SITE_WORKSPACE"]
    assert sdk.workspace.subscription_id == server.exports()["LOCAL_SITE_SUBSCRIPTION_ID"]


def test_the_sdk_opens_the_workspace_with_a_token_of_its_own(sdk: Sdk, server: AzureML, http: Http) -> None:
    from azureml.core import Workspace
    from azureml.core.authentication import TokenAuthentication

    facts = server.exports()
    auth = TokenAuthentication(lambda _audience: http.token(), cloud=facts["AZUREML_CURRENT_CLOUD"])
    names = [facts[f"LOCAL_SITE_{name}"] for name in ("SUBSCRIPTION_ID", "RESOURCE_GROUP", "WORKSPACE")]
    assert Workspace(*names, auth=auth).name == facts["LOCAL_SITE_WORKSPACE"]


def test_a_wrong_secret_is_refused_by_the_authority(sdk: Sdk, http: Http) -> None:
    with pytest.raises(Exception, match="AADSTS7000215"):
        sdk.log_in(secret="not the secret")
    answer = http.log_in(client_secret="not the secret")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"client_id": "someone-else"}, "unauthorized_client"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"scope": "https://management.azure.com/.default"}, "invalid_resource"),
    ],
)
def test_a_token_is_given_only_for_what_was_asked_rightly(http: Http, change: dict[str, str], error: str) -> None:
    answer = http.log_in(**change)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_a_missing_workspace_is_said_to_be_missing(sdk: Sdk) -> None:
    from azureml.exceptions import ProjectSystemException

    with pytest.raises(ProjectSystemException, match="Workspace not found"):
        sdk.log_in(workspace="no-such-workspace")


def test_without_a_token_nothing_is_answered(http: Http) -> None:
    assert error_of(http.call("GET", "{W}/computes", token=""))[:2] == (401, "AuthenticationFailed")


def test_a_token_that_somebody_else_signed_is_refused(http: Http) -> None:
    claims = jwt.decode(http.token(), options={"verify_signature": False})
    forged = jwt.encode(claims, b"another key that is long enough for HS256", algorithm="HS256")
    assert error_of(http.call("GET", "{W}/computes", token=forged))[:2] == (401, "InvalidAuthenticationToken")
    unsigned = jwt.encode(claims, "", algorithm="none")
    assert error_of(http.call("GET", "{W}/computes", token=unsigned))[:2] == (401, "InvalidAuthenticationToken")


def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    # Long enough for one call on a busy machine.
    server = AzureML(tmp_path, token_seconds=4)
    server.start()
    try:
        http = Http(server)
        token = http.token()
        assert http.call("GET", "{W}/computes", token=token).status_code == 200
        time.sleep(5.1)
        assert error_of(http.call("GET", "{W}/computes", token=token))[:2] == (401, "ExpiredAuthenticationToken")
    finally:
        server.end()


def test_an_unknown_route_is_named_in_a_501(http: Http) -> None:
    status, code, message = error_of(http.call("PURGE", "/history/v1.0{W}/no/such/thing"))
    assert (status, code) == (501, "NotImplemented")
    assert "PURGE /history/v1.0/subscriptions" in message
    status, _, message = error_of(http.call("DELETE", "/subscriptions"))
    assert (status, "DELETE /subscriptions" in message) == (501, True)


@pytest.mark.parametrize("body", ["{", "[]", '"text"'])
def test_a_body_that_is_no_json_object_is_refused(http: Http, body: str) -> None:
    path = "/metric/v2.0{W}/runs/no-run/full"
    assert error_of(http.call("POST", path, data=body))[:2] == (400, "BadArgument")


def test_another_subscription_or_resource_group_is_not_found(http: Http) -> None:
    elsewhere = http.workspace.replace(http.facts["LOCAL_SITE_SUBSCRIPTION_ID"], "0000")
    assert error_of(http.call("GET", elsewhere))[:2] == (404, "SubscriptionNotFound")
    elsewhere = http.workspace.replace("/resourceGroups/edge/", "/resourceGroups/other/")
    assert error_of(http.call("GET", elsewhere))[:2] == (404, "ResourceGroupNotFound")
