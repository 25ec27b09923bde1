"""Every exception of the Azure ML SDK, and of the two libraries that it raises through, has its row: which status, tried again or not."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType, SimpleNamespace
from typing import Any

import msrest
import msrest.exceptions
import pytest
import requests

from edge_training.hooks.azure_ml_errors import map_error

REFUSED = (401, False)
FINAL = (None, False)
PASSING = (None, True)
# Carries the status of the answer that it was made of; 503 here.
AS_ANSWERED = (503, True)

ROWS: dict[str, dict[str, tuple[int | None, bool]]] = {
    "azureml.exceptions": {
        "ActivityFailedException": FINAL,
        "AuthenticationException": REFUSED,
        "AzureMLAggregatedException": FINAL,
        "AzureMLException": FINAL,
        "ComputeTargetException": FINAL,
        "DatasetTimestampMissingError": FINAL,
        "DiscoveryUrlNotFoundException": FINAL,
        "ExperimentExecutionException": FINAL,
        "ModelNotFoundException": FINAL,
        "ModelPathNotFoundException": FINAL,
        "ParallelRunException": FINAL,
        "ProjectSystemException": FINAL,
        "RunConfigurationException": FINAL,
        "RunEnvironmentException": FINAL,
        "ServiceException": AS_ANSWERED,
        "SnapshotException": FINAL,
        "TrainingException": FINAL,
        "UserErrorException": FINAL,
        "WebserviceException": FINAL,
        "WorkspaceException": FINAL,
        "WorkspacePrivateEndpointException": FINAL,
    },
    "msrest.exceptions": {
        "AuthenticationError": REFUSED,
        "ClientException": FINAL,
        "ClientRequestError": PASSING,
        "DeserializationError": FINAL,
        "HttpOperationError": AS_ANSWERED,
        "SerializationError": FINAL,
        "TokenExpiredError": REFUSED,
        "ValidationError": FINAL,
    },
    "azure.core.exceptions": {
        "AzureError": FINAL,
        "ClientAuthenticationError": AS_ANSWERED,
        "DecodeError": AS_ANSWERED,
        "DeserializationError": FINAL,
        "HttpResponseError": AS_ANSWERED,
        "IncompleteReadError": PASSING,
        "ODataV4Error": AS_ANSWERED,
        "ResourceExistsError": AS_ANSWERED,
        "ResourceModifiedError": AS_ANSWERED,
        "ResourceNotFoundError": AS_ANSWERED,
        "ResourceNotModifiedError": AS_ANSWERED,
        "ResponseNotReadError": FINAL,
        "SerializationError": FINAL,
        "ServiceRequestError": PASSING,
        "ServiceRequestTimeoutError": PASSING,
        "ServiceResponseError": PASSING,
        "ServiceResponseTimeoutError": PASSING,
        "StreamClosedError": FINAL,
        "StreamConsumedError": FINAL,
        "TooManyRedirectsError": AS_ANSWERED,
    },
}
# Most take a message; these take something else.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "AzureMLAggregatedException": (["what happened"],),
    "RunEnvironmentException": (),
    "ValidationError": ("rule", "target", "value"),
}


class Answer(SimpleNamespace):
    """As much of an answer as the libraries read of it."""

    def text(self) -> str:
        return ""

    def raise_for_status(self) -> None:
        raise requests.HTTPError(response=self)  # type: ignore[arg-type]  # the status is all that is read


def answer() -> Answer:
    request = SimpleNamespace(method="GET", url="https://a.example/")
    return Answer(status_code=503, reason="Busy", headers={}, request=request)


def service_exception() -> BaseException:
    from azureml.exceptions import ServiceException

    error: BaseException = ServiceException(SimpleNamespace(error=None, message="busy", response=answer()))
    return error


def module(name: str) -> ModuleType:
    # By name, because the first takes seconds to import.
    return importlib.import_module(name)


def make(kind: type[Any], row: tuple[int | None, bool]) -> BaseException:
    error: BaseException
    if kind.__name__ == "ServiceException":
        return service_exception()
    if kind.__name__ == "HttpOperationError":
        return msrest.exceptions.HttpOperationError(msrest.Deserializer(), answer())  # type: ignore[no-untyped-call]  # msrest is untyped
    if kind.__name__ in {"ODataV4Error", "ResponseNotReadError", "StreamClosedError", "StreamConsumedError"}:
        error = kind(answer())
    elif row is AS_ANSWERED:
        error = kind("what happened", response=answer())
    else:
        error = kind(*ARGUMENTS.get(kind.__name__, ("what happened",)))
    return error


@pytest.mark.parametrize("name", ROWS)
def test_every_exception_of_the_library_has_a_row(name: str) -> None:
    found = inspect.getmembers(module(name), lambda one: inspect.isclass(one) and issubclass(one, Exception))
    assert {kind for kind, _ in found} == set(ROWS[name])


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, rows in ROWS.items() for kind in rows])
def test_each_row_is_what_callers_of_the_hook_see(name: str, kind: str) -> None:
    row = ROWS[name][kind]
    error = map_error(make(getattr(module(name), kind), row), "do a thing", "azure_ml")
    assert (error.status, error.retryable) == row
    assert error.service == "Azure ML"
