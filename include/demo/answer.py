"""Pulls the image that a DAG run has pushed, by digest, starts it in a sandbox, and asks it one question."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.errors import DemoError
from demo.settings import PROJECT
from edge_training.exceptions import EdgeTrainingError
from edge_training.images.pull import pull
from edge_training.images.registry import RegistryClient
from edge_training.images.sandbox import answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_training.records import ImageReference

SAMPLE_REQUEST = PROJECT / "include/training_scripts/breast_cancer/sample_request.json"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What the image answered to one request.

    :param body: the answer, JSON.
    :param isolation: what the image ran in.
    :param pull_seconds: to pull and to unpack it.
    :param start_seconds: from its start until it was healthy.
    :param request_seconds: from the request to the answer.
    """

    body: Any
    isolation: str
    pull_seconds: float
    start_seconds: float
    request_seconds: float


def ask(image: ImageReference, site: Mapping[str, str], folder: Path) -> Answer:
    """Ask an image for a prediction.

    :param image: the image, by digest.
    :param site: the variables with which the registry is reached.
    :param folder: where it is unpacked for that while; takes a few hundred megabytes.
    :raises DemoError: when it cannot be pulled or started, or does not answer with 200 and JSON.
    """
    client = RegistryClient(
        image.registry,
        user=site["LOCAL_SITE_REGISTRY_USER"],
        password=site["LOCAL_SITE_REGISTRY_PASSWORD"],
        ca_certificate=Path(site["LOCAL_SITE_CA"]),
        origin="the local site",
    )
    with client, tempfile.TemporaryDirectory(prefix="image-", dir=folder) as unpacked:
        try:
            pulled = pull(client, image.repository, image.digest, Path(unpacked))
            found = answer(pulled, SAMPLE_REQUEST.read_bytes(), START_SECONDS)
        except EdgeTrainingError as error:
            raise DemoError(f"The image {image.pinned} did not answer: {error}") from error
    if found.status != 200:
        raise DemoError(f"The image {image.pinned} answered with status {found.status}: {found.body[:500]!r}")
    try:
        body = json.loads(found.body)
    except ValueError as error:
        raise DemoError(f"The image {image.pinned} did not answer with JSON: {found.body[:500]!r}") from error
    return Answer(body, found.isolation, pulled.seconds, found.start_seconds, found.request_seconds)
