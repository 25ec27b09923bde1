"""Which errors Airflow tries again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.retry_policy import RetryAction, RetryDecision, RetryPolicy

from edge_training.exceptions import EdgeTrainingError

if TYPE_CHECKING:
    from airflow.sdk import Context


class TypedRetryPolicy(RetryPolicy):
    """Fails a task at once when its error says that trying again cannot help; every other error gets the task's own retries.

    A wrong password, a misspelt field or data that would leave the premises does not get better by waiting; a service that does not
    answer may. See :attr:`edge_training.exceptions.EdgeTrainingError.retryable`.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002 - the interface of Airflow
        max_tries: int,  # noqa: ARG002 - likewise
        context: Context | None = None,  # noqa: ARG002 - likewise
    ) -> RetryDecision:
        """Decide by the error's type.

        :param exception: what the task raised.
        :param try_number: not used.
        :param max_tries: not used.
        :param context: not used.
        """
        if isinstance(exception, EdgeTrainingError) and not exception.retryable:
            return RetryDecision(
                action=RetryAction.FAIL,
                reason=f"{type(exception).__name__}: trying again cannot help, a person has to act",
            )
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """Return the policy for Airflow's serialised DAG; it has no parameters."""
        return {"__type": "TypedRetryPolicy"}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> TypedRetryPolicy:  # noqa: ARG003 - there is nothing to read
        """Return the policy.

        :param data: what :meth:`serialize` returned.
        """
        return cls()
