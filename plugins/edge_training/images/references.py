"""Names of images as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_training.exceptions import ConfigurationError
from edge_training.images.media_types import DIGEST

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Reference:
    """An image by name.

    :param registry: ``host`` or ``host:port``.
    :param repository: the repository in it.
    :param tag: the tag, or ``""``.
    :param digest: ``sha256:<hex>``, or ``""``; where there is one, it counts and the tag does not.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def wanted(self) -> str:
        """Return what to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse_reference(text: str, registry: str) -> Reference:
    """Read an image's name.

    :param text: ``[registry/]repository[:tag][@sha256:...]``; without tag and digest the tag is ``latest``.
    :param registry: the registry that it must be in, the one of our connection.
    :raises ConfigurationError: when it is not such a name, or is in another registry.
    """
    name, _, digest = text.strip().partition("@")
    host, slash, rest = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        if host != registry:
            raise ConfigurationError(
                f"Image '{text}' is in registry '{host}', but the connection is to '{registry}'. "
                f"Copy the image there first (for an Azure registry: az acr import --source {name}), and name it from there."
            )
        name = rest
    repository, _, tag = name.partition(":")
    check_repository(repository, text)
    if tag:
        check_tag(tag, text)
    if (digest or "@" in text) and not DIGEST.fullmatch(digest):
        raise ConfigurationError(f"Image '{text}' has no valid digest: expected 'sha256:' and 64 hex digits after '@'.")
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest)


def check_repository(repository: str, found_in: str = "") -> str:
    """Return a repository's name when it is one.

    :param repository: the name.
    :param found_in: what it was found in, for the error.
    :raises ConfigurationError: when the registry would refuse it.
    """
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
        raise ConfigurationError(
            f"'{found_in or repository}' does not name a repository: expected lower-case letters, digits and . _ - "
            "in parts separated by '/', such as 'models/breast-cancer'."
        )
    return repository


def check_tag(tag: str, found_in: str = "") -> str:
    """Return a tag when it is one.

    :param tag: the tag.
    :param found_in: what it was found in, for the error.
    :raises ConfigurationError: when the registry would refuse it.
    """
    if not _TAG.fullmatch(tag):
        raise ConfigurationError(
            f"'{found_in or tag}' has no valid tag: expected up to 128 letters, digits and _ . - , not beginning with . or -."
        )
    return tag
