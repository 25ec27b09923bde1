"""Everything that this project raises on purpose.

::

    EdgeTrainingError
    ├── ConfigurationError        a site file, connection or setting is wrong         never retried
    ├── DataVerificationError     the blobs are not what the site promised
    ├── ComputeError              the training VM is unreachable, unfit or not ours
    ├── ServiceError              a service answered with an error (status, code)     retried when `retryable`
    ├── RunError                  a training run ended without a usable model         never retried
    │   ├── RunFailedError        ...                                                   retried when `retryable`: by another run
    │   ├── RunCanceledError
    │   └── RunTimeoutError
    ├── ResidencyError            something would leave, or has left, that must not   never retried
    ├── ModelGateError            the model is not good enough to be registered
    ├── ImageError                an image cannot be composed, pushed or pulled        retried when `retryable`
    └── DeploymentError           an image cannot be put into service              retried when `retryable`

A message says what happened, to which id, in which state, and what to do or where to look. It never carries a credential
or a value from the training data.
"""

from __future__ import annotations


class EdgeTrainingError(Exception):
    """The root of the tree: catch it to catch whatever this project raises on purpose.

    :cvar retryable: whether trying the same thing again may help. Airflow's retry policy of every task reads it.
    """

    retryable: bool = True


class ConfigurationError(EdgeTrainingError):
    """A site file, a connection or a setting is wrong; a person has to change it."""

    retryable = False


class DataVerificationError(EdgeTrainingError):
    """The blobs are missing, too few, too old, too small, or their header is not the schema's."""


class ComputeError(EdgeTrainingError):
    """The training VM cannot be reached, is not the machine it should be, or is too small."""


class ServiceError(EdgeTrainingError):
    """A service answered with an error, or not at all.

    :param message: the whole sentence for a person.
    :param service: which service, in the field's words: ``"Azure ML"``, ``"blob storage"``, ``"container registry"``.
    :param status: the HTTP status, or ``None`` when no answer came.
    :param code: the service's own error code, such as ``"AuthorizationFailure"``, or ``None``.
    :param retryable: whether the same request may succeed later (408, 425, 429, 5xx but 501 and 505, no answer).
    """

    def __init__(
        self,
        message: str,
        *,
        service: str,
        status: int | None = None,
        code: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.service = service
        self.status = status
        self.code = code
        self.retryable = is_retryable_status(status) if retryable is None else retryable


class RunError(EdgeTrainingError):
    """A training run ended without a usable model.

    Asking for the same run again cannot help: another run has to be submitted.

    :param message: the whole sentence for a person, with the run's own error.
    :param run_id: the run's id in Azure ML.
    """

    retryable = False

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class RunFailedError(RunError):
    """The run ended as Failed, or ended well without the model it promised.

    :param message: the whole sentence for a person, with the run's own error.
    :param run_id: the run's id in Azure ML.
    :param retryable: whether another run may do better: the VM was lost, not the script wrong.
    """

    def __init__(self, message: str, *, run_id: str, retryable: bool = False) -> None:
        super().__init__(message, run_id=run_id)
        self.retryable = retryable


class RunCanceledError(RunError):
    """The run was cancelled, here or by somebody else."""


class RunTimeoutError(RunError):
    """The run took longer than the site allows and was cancelled."""


class ResidencyError(EdgeTrainingError):
    """Something would leave the premises, or has left them, that must not."""

    retryable = False


class ModelGateError(EdgeTrainingError):
    """The model's metrics are below what the site demands; it is not registered."""

    retryable = False


class ImageError(EdgeTrainingError):
    """An image cannot be composed, pushed, pulled or started.

    :param message: the whole sentence for a person.
    :param retryable: whether trying the same thing again may help; most causes, such as a missing base, need a person.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class DeploymentError(EdgeTrainingError):
    """An image cannot be put into service; what served before still serves.

    :param message: the whole sentence for a person.
    :param retryable: whether trying the same thing again may help: the target could not be reached, not the model answered otherwise.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


def is_retryable_status(status: int | None) -> bool:
    """Tell whether a request that got this HTTP status may succeed when it is sent again.

    :param status: the HTTP status, or ``None`` when no answer came (refused, reset, timed out), which may help to repeat.
    """
    if status is None:
        return True
    # 501 and 505 say that the server cannot do it at all, however often it is asked.
    return status in {408, 425, 429} or (status >= 500 and status not in {501, 505})
