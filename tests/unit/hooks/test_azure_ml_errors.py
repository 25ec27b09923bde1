"""Whatever the Azure ML SDK raises becomes one error with a status, a cause and advice."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from azure.core.exceptions import ServiceRequestError
from msrest.exceptions import ClientRequestError

from edge_training.exceptions import ConfigurationError, ServiceError
from edge_training.hooks.azure_ml_errors import azure_ml_errors, map_error


def http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} error", response=response)


def service_exception(status: int, code: str, message: str) -> Exception:
    from azureml._restclient.exceptions import ServiceException

    inner = SimpleNamespace(code=code, message=message, details=[])
    cause = SimpleNamespace(
        error=SimpleNamespace(error=inner), message=message, response=SimpleNamespace(status_code=status)
    )
    error: Exception = ServiceException(cause)
    return error


def mapped(error: BaseException) -> ServiceError:
    return map_error(error, "do a thing to 'x'", "azure_ml")


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, False), (403, False), (404, False), (409, False), (429, True), (503, True)],
)
def test_the_sdks_service_exception_keeps_status_code_and_message(status: int, retryable: bool) -> None:
    error = mapped(service_exception(status, "UserError", "the service's own words"))
    assert (error.status, error.code, error.retryable) == (status, "UserError", retryable)
    assert "Could not do a thing to 'x' (connection 'azure_ml'): the service's own words" in str(error)


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_a_plain_http_error_keeps_its_status(status: int) -> None:
    assert mapped(http_error(status)).status == status


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        requests.Timeout("slow"),
        ClientRequestError("no route"),
        ServiceRequestError("no name"),
        ConnectionResetError("reset"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_answer_may_be_tried_again_and_names_network_and_ca(error: Exception) -> None:
    said = mapped(error)
    assert said.status is None
    assert said.retryable
    assert "REQUESTS_CA_BUNDLE" in str(said)


def test_a_cause_is_found_behind_the_sdks_wrapping() -> None:
    error = RuntimeError("something went wrong")
    error.__cause__ = requests.ConnectionError("refused")
    assert mapped(error).retryable


def test_a_status_is_found_in_the_text_of_a_compute_exception() -> None:
    from azureml.exceptions import ComputeTargetException

    error = mapped(ComputeTargetException('Received bad response:\nResponse Code: 409\nContent: {"message": "exists"}'))
    assert error.status == 409
    assert "exists" in str(error)


def test_refused_credentials_say_which_fields_to_check() -> None:
    from azureml.exceptions import AuthenticationException

    error = mapped(AuthenticationException("invalid_client"))
    assert (error.status, error.retryable) == (401, False)
    assert "client id and secret" in str(error)


def test_a_missing_workspace_says_which_extras_to_check() -> None:
    from azureml.exceptions import ProjectSystemException

    error = mapped(ProjectSystemException("Workspace not found."))
    assert (error.status, error.retryable) == (404, False)
    assert "subscription_id, resource_group and workspace" in str(error)


# Most take a message; these do not.
SPECIAL_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "AzureMLAggregatedException": (["what happened"],),
    "RunEnvironmentException": (),
}


def sdk_exceptions() -> list[type[Any]]:
    import azureml.exceptions

    found = [kind for _, kind in inspect.getmembers(azureml.exceptions, inspect.isclass) if issubclass(kind, Exception)]
    return [kind for kind in found if kind.__name__ != "ServiceException"]  # made of an answer: has its own test above


def test_every_exception_of_the_sdk_is_mapped() -> None:
    kinds = sdk_exceptions()
    assert len(kinds) > 15
    for kind in kinds:
        arguments = SPECIAL_ARGUMENTS.get(kind.__name__, ("what happened",))
        error = mapped(kind(*arguments))
        assert str(error).startswith("Could not do a thing to 'x' (connection 'azure_ml'): "), kind
        assert "what happened" in str(error) or not arguments, kind
        assert not error.retryable, kind


def test_our_own_errors_pass_unchanged() -> None:
    ours = ConfigurationError("a wrong field")
    with pytest.raises(ConfigurationError) as error, azure_ml_errors("do a thing", "azure_ml"):
        raise ours
    assert error.value is ours


def test_a_long_dump_of_the_sdk_is_cut_to_one_line() -> None:
    said = str(mapped(RuntimeError("line\n" * 1000)))
    assert "\n" not in said
    assert len(said) < 1000
