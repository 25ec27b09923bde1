"""The two interfaces of this package: what builds an image, and what publishes one.

Everything else is another builder, another target, or a wrapper around one of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from edge_training.images.compose import ComposedImage
    from edge_training.images.media_types import Descriptor
    from edge_training.images.referrers import Attachment
    from edge_training.records import ImageReference

Way = Literal["present", "mounted", "copied", "sent"]


@dataclass(frozen=True)
class Transfer:
    """How one blob of an image came to be at the target.

    :param descriptor: the blob.
    :param way: it was ``present``, was ``mounted`` from the base's repository, ``copied`` from there through this
        machine, or ``sent`` from this machine.
    :param seconds: how long that took.
    """

    descriptor: Descriptor
    way: Way
    seconds: float


@dataclass(frozen=True)
class Published:
    """An image that can be pulled.

    :param reference: by digest, with the tag that points at it.
    :param transfers: what was done for each of its blobs, the base's first.
    :param moved_from: digest that the tag pointed at before when that was another one, else ``""``.
    """

    reference: ImageReference
    transfers: tuple[Transfer, ...]
    moved_from: str = ""


class Builder(Protocol):
    """Makes an image on this machine."""

    def build(self) -> ComposedImage:
        """Return the image; the same inputs give the same digest."""
        ...


class Publisher(Protocol):
    """Takes an image to where it can be pulled from."""

    def publish(self, image: ComposedImage, tag: str, attachments: tuple[Attachment, ...] = ()) -> Published:
        """Publish the image; the tag points at it only when all of it is there.

        :param image: the image.
        :param tag: its tag, for people.
        :param attachments: documents that are attached to it.
        """
        ...
