"""Which images and model versions may go: all but the newest and whatever is deployed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_VERSION_TAG = re.compile(r"v(\d+)")
# Where a registry without the referrers API keeps what refers to an image.
_REFERRERS_TAG = re.compile(r"(sha256)-([0-9a-f]{64})")


@dataclass(frozen=True)
class Plan:
    """What goes.

    :param images: digest → its tags, of the images that are removed.
    :param referrers: digest → its tag, of the indexes by which documents about these images are found.
    :param versions: the model versions that are removed.
    :param kept_images: how many images stay.
    :param kept_versions: how many versions stay.
    """

    images: dict[str, tuple[str, ...]]
    referrers: dict[str, str]
    versions: tuple[int, ...]
    kept_images: int
    kept_versions: int


def plan_removal(
    tags: Mapping[str, str],
    versions: Collection[int],
    deployed: Collection[str],
    deployed_versions: Collection[int],
    *,
    keep_images: int,
    keep_versions: int,
) -> Plan:
    """Decide what goes; an image with a tag that is not one of ours (``v<version>``) always stays.

    :param tags: tag → digest, all of the repository.
    :param versions: all versions of the model.
    :param deployed: digests of what is deployed, and of what can be gone back to.
    :param deployed_versions: versions of the same.
    :param keep_images: how many of the newest images stay.
    :param keep_versions: how many of the newest versions stay.
    """
    named: dict[str, list[str]] = {}
    for tag, digest in sorted(tags.items()):
        if not _REFERRERS_TAG.fullmatch(tag):
            named.setdefault(digest, []).append(tag)
    ours = {digest: _newest(found) for digest, found in named.items()}
    numbered = [digest for digest, version in ours.items() if version is not None]
    by_age = sorted(numbered, key=lambda digest: ours[digest] or 0, reverse=True)
    going = {digest: tuple(named[digest]) for digest in by_age[keep_images:] if digest not in deployed}
    staying_versions = {version for digest, version in ours.items() if version is not None and digest not in going}
    newest = sorted(versions, reverse=True)
    old = [one for one in newest[keep_versions:] if one not in staying_versions and one not in set(deployed_versions)]
    return Plan(
        images=going,
        referrers={digest: tag for tag, digest in tags.items() if _refers_to(tag) in going},
        versions=tuple(sorted(old)),
        kept_images=len(named) - len(going),
        kept_versions=len(newest) - len(old),
    )


def _newest(tags: list[str]) -> int | None:
    """Return the newest version that an image's tags name, or ``None`` when one of them is not ours."""
    found = [_VERSION_TAG.fullmatch(tag) for tag in tags]
    numbers = [int(match.group(1)) for match in found if match]
    return max(numbers) if len(numbers) == len(tags) else None


def _refers_to(tag: str) -> str:
    match = _REFERRERS_TAG.fullmatch(tag)
    return f"{match.group(1)}:{match.group(2)}" if match else ""
