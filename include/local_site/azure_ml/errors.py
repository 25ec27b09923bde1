"""The errors that the server answers with, shaped as Azure shapes them.

::

    ServiceError                500
    ├── BadRequestError              400   the request cannot be understood or names something impossible
    ├── UnauthorizedError            401   no token, an expired one, or one that somebody else signed
    ├── ForbiddenError               403   a good token that does not allow this
    ├── NotFoundError                404
    ├── ConflictError                409   the name is taken by something else
    ├── TooLargeError                413
    └── NotSupportedError            501   a route or an option that this server does not know
"""

from __future__ import annotations

from typing import Any


class ServiceError(Exception):
    """An answer that is not a success.

    :param message: the whole sentence for a person.
    :param code: Azure's word for it; the class has a default.
    :param headers: more headers of the answer, such as ``Retry-After``.
    """

    status = 500
    code = "ServiceError"

    def __init__(self, message: str, *, code: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Return the JSON that goes over the wire.

        The SDK's history and artifact clients read ``error``; its model client reads the same facts from the top level.
        ``details`` must be a list: the SDK's own exception cannot be printed without.
        """
        facts: dict[str, Any] = {"code": self.code, "message": self.message, "details": []}
        return {"error": facts, "statusCode": self.status, **facts}


class BadRequestError(ServiceError):
    """The request cannot be understood, or names something impossible."""

    status = 400
    code = "BadArgument"


class UnauthorizedError(ServiceError):
    """There is no token, or it is expired, or somebody else signed it."""

    status = 401
    code = "AuthenticationFailed"


class ForbiddenError(ServiceError):
    """The token is good but does not allow this."""

    status = 403
    code = "AuthorizationFailed"


class NotFoundError(ServiceError):
    """There is no such thing."""

    status = 404
    code = "ResourceNotFound"


class ConflictError(ServiceError):
    """The name is taken by something else."""

    status = 409
    code = "ConflictError"


class TooLargeError(ServiceError):
    """The body is larger than this server takes."""

    status = 413
    code = "RequestBodyTooLarge"


class NotSupportedError(ServiceError):
    """This server does not know the route or the option."""

    status = 501
    code = "NotImplemented"
