"""What cannot get better by waiting is not tried again."""

import inspect

import pytest
from airflow.sdk.definitions.retry_policy import RetryAction

from edge_training import exceptions
from edge_training.exceptions import EdgeTrainingError, RunError, ServiceError, is_retryable_status
from edge_training.retries import TypedRetryPolicy

NEVER = {
    "ConfigurationError",
    "ResidencyError",
    "ModelGateError",
    "ImageError",
    "DeploymentError",
    "RunError",
    "RunFailedError",
    "RunCanceledError",
    "RunTimeoutError",
}


def kinds() -> list[type[EdgeTrainingError]]:
    return [
        kind
        for kind in vars(exceptions).values()
        if inspect.isclass(kind)
        and issubclass(kind, EdgeTrainingError)
        and kind not in {EdgeTrainingError, ServiceError}
    ]


def action(error: BaseException) -> RetryAction:
    return TypedRetryPolicy().evaluate(error, 1, 2).action


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_the_type_of_an_error_decides(kind: type[EdgeTrainingError]) -> None:
    error = kind("m", run_id="r") if issubclass(kind, RunError) else kind("m")
    assert action(error) is (RetryAction.FAIL if kind.__name__ in NEVER else RetryAction.DEFAULT)


@pytest.mark.parametrize("status", [None, 408, 425, 429, 500, 502, 503, 504])
def test_a_service_that_may_recover_is_tried_again(status: int | None) -> None:
    assert is_retryable_status(status)
    assert action(ServiceError("m", service="s", status=status)) is RetryAction.DEFAULT


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 501, 505])
def test_a_service_that_refused_is_not_tried_again(status: int) -> None:
    assert not is_retryable_status(status)
    assert action(ServiceError("m", service="s", status=status)) is RetryAction.FAIL


def test_an_error_of_somebody_else_gets_the_tasks_own_retries() -> None:
    assert action(ValueError("m")) is RetryAction.DEFAULT


def test_the_policy_survives_the_serialised_dag() -> None:
    assert isinstance(TypedRetryPolicy.deserialize(TypedRetryPolicy().serialize()), TypedRetryPolicy)
