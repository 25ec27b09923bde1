"""What a host says went wrong, as an error of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_training.exceptions import DeploymentError, ImageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_training.exceptions import EdgeTrainingError

# What is wrong with the image or its registry; all else concerns the host, or how the image behaves on it.
_OF_THE_IMAGE = frozenset({"image", "registry"})


def from_host(error: Mapping[str, Any], host: str, reference: str) -> EdgeTrainingError:
    """Return the error for what a host reported.

    :param error: ``kind``, ``message`` and ``retryable``.
    :param host: the host, for the message.
    :param reference: the image that it was about.
    """
    kind, message, retryable = error["kind"], str(error["message"]), bool(error["retryable"])
    if kind in _OF_THE_IMAGE:
        return ImageError(f"Host {host}: {message}", retryable=retryable)
    if kind in {"unhealthy", "probe"}:
        return DeploymentError(f"Image {reference} is not fit to serve on host {host}: {message}", retryable=retryable)
    return DeploymentError(f"Host {host} cannot run image {reference}: {message}", retryable=retryable)
