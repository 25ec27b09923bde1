"""A workspace that is missing or refuses the credentials is a typed error that says what to check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ConfigurationError, ServiceError
from edge_training.hooks.azure_ml import AzureMLHook
from tests.integration.training.conftest import azure_ml_fields

if TYPE_CHECKING:
    from tests.airflow_harness import AirflowConnection, FakeComms


def test_a_workspace_that_does_not_exist_names_the_extras(
    connections: dict[str, Any], airflow_connection: AirflowConnection, comms: FakeComms
) -> None:
    airflow_connection("azure_ml", **azure_ml_fields(connections, workspace="elsewhere"))
    with pytest.raises(ServiceError) as error:
        AzureMLHook().find_compute("edge-vm")
    assert (error.value.status, error.value.retryable) == (404, False), str(error.value)
    assert "'elsewhere'" in str(error.value)
    assert "subscription_id, resource_group and workspace" in str(error.value)


def test_refused_credentials_name_the_connection_and_do_not_show_the_secret(
    connections: dict[str, Any], airflow_connection: AirflowConnection, comms: FakeComms
) -> None:
    airflow_connection("azure_ml", **{**azure_ml_fields(connections), "password": "wrong-and-secret"})
    with pytest.raises(ServiceError) as error:
        AzureMLHook().find_compute("edge-vm")
    assert (error.value.status, error.value.retryable) == (401, False)
    assert "connection 'azure_ml'" in str(error.value)
    assert "wrong-and-secret" not in str(error.value)


def test_an_extra_that_nobody_knows_is_refused_before_anything_is_sent(
    connections: dict[str, Any], airflow_connection: AirflowConnection, comms: FakeComms
) -> None:
    airflow_connection("azure_ml", **azure_ml_fields(connections, workspace_name="edge"))
    with pytest.raises(ConfigurationError, match="'workspace_name'"):
        AzureMLHook().find_compute("edge-vm")


def test_a_compute_target_that_does_not_exist_is_none(connections: dict[str, Any], comms: FakeComms) -> None:
    assert AzureMLHook().find_compute("nobody") is None


def test_a_run_that_does_not_exist_is_none(connections: dict[str, Any], comms: FakeComms) -> None:
    assert AzureMLHook().find_run("nobody-1") is None
