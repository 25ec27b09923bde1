from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ConfigurationError
from edge_training.hooks.connections import read_connection

if TYPE_CHECKING:
    from tests.airflow_harness import AirflowConnection, FakeComms

SECRET = "Tr0ub4dor-and-3-more"


def read(**options: Any) -> Any:
    return read_connection("site", {"wasb"}, {"api_version", "token"}, **options)


def test_a_connection_is_read_with_its_fields_and_extras(
    airflow_connection: AirflowConnection, comms: FakeComms
) -> None:
    airflow_connection(
        "site", conn_type="wasb", host=" h ", port=7, login="l", password=SECRET, extra={"api_version": " v "}
    )
    settings = read(required=("host", "login", "api_version"))
    assert (settings.host, settings.port, settings.login, settings.password) == ("h", 7, "l", SECRET)
    assert settings.text("api_version") == "v"
    assert settings.text("token", "none") == "none"


def test_a_connection_shows_no_secret(airflow_connection: AirflowConnection, comms: FakeComms) -> None:
    airflow_connection("site", conn_type="wasb", password=SECRET, extra={"token": SECRET})
    assert SECRET not in repr(read())


def test_a_missing_connection_is_told_with_how_to_add_it(comms: FakeComms) -> None:
    with pytest.raises(ConfigurationError, match=r"no readable connection 'site'.*AIRFLOW_CONN_SITE"):
        read()


def test_an_unknown_extra_is_told_with_the_known_ones(airflow_connection: AirflowConnection, comms: FakeComms) -> None:
    airflow_connection("site", conn_type="wasb", extra={"api_verison": SECRET})
    with pytest.raises(
        ConfigurationError, match=r"'site' has unknown extra 'api_verison'; known are 'api_version', 'token'"
    ) as caught:
        read()
    assert SECRET not in str(caught.value)


def test_a_connection_of_another_type_is_refused(airflow_connection: AirflowConnection, comms: FakeComms) -> None:
    airflow_connection("site", conn_type="ssh")
    with pytest.raises(ConfigurationError, match="has type 'ssh', expected 'wasb'"):
        read()


@pytest.mark.parametrize("blank", ["host", "login", "password", "port", "api_version"])
def test_a_blank_required_field_is_named(blank: str, airflow_connection: AirflowConnection, comms: FakeComms) -> None:
    airflow_connection("site", conn_type="wasb", host="  ", extra={"api_version": ""})
    with pytest.raises(ConfigurationError, match=f"'site' lacks '{blank}'"):
        read(required=(blank,))


@pytest.mark.parametrize(
    ("extra", "message"), [("{not json", "not valid JSON"), ("[1]", "must be a JSON object, found list")]
)
def test_an_extra_that_is_no_object_is_refused(
    extra: str, message: str, airflow_connection: AirflowConnection, comms: FakeComms
) -> None:
    airflow_connection("site", conn_type="wasb", extra=extra)
    with pytest.raises(ConfigurationError, match=message):
        read()


def test_an_extra_that_is_no_text_is_refused(airflow_connection: AirflowConnection, comms: FakeComms) -> None:
    airflow_connection("site", conn_type="wasb", extra={"api_version": 2019})
    with pytest.raises(ConfigurationError, match="'api_version' of connection 'site' must be text, found int"):
        read().text("api_version")


def test_a_secret_extra_is_masked_in_logs(airflow_connection: AirflowConnection, comms: FakeComms) -> None:
    airflow_connection("site", conn_type="wasb", extra={"api_version": SECRET})
    read(secret_extras={"api_version"})
    assert SECRET in [getattr(message, "value", None) for message in comms.sent]
