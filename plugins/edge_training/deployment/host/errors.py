"""What can go wrong on a host, with the word by which the pipeline tells it apart."""

from __future__ import annotations

from typing import Any, Literal

Kind = Literal["image", "registry", "sandbox", "unhealthy", "probe", "port", "host"]


class HostError(Exception):
    """Something went wrong on the host.

    :param kind: ``image`` (damaged or not one), ``registry`` (refuses or does not answer), ``sandbox`` (none can be made), ``unhealthy``
        (does not start), ``probe`` (answers differently), ``port`` (taken), or ``host`` (anything else about the host).
    :param message: the whole sentence for a person.
    :param retryable: whether trying the same thing again may help.
    """

    def __init__(self, kind: Kind, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.retryable = retryable

    def to_json(self) -> dict[str, Any]:
        """Return the error as it is told to the pipeline."""
        return {"kind": self.kind, "message": str(self), "retryable": self.retryable}
