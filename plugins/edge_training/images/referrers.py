"""What is attached to an image: documents in manifests of their own, whose ``subject`` is the image.

Registries of the distribution protocol 1.1 list them by themselves; for older ones the list is an index under the tag ``sha256-<hex>``
(github.com/opencontainers/distribution-spec, "Referrers tag schema").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.images.compose import load_json
from edge_training.images.media_types import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json
from edge_training.images.sbom import CYCLONEDX

if TYPE_CHECKING:
    from edge_training.images.registry import RegistryClient

EMPTY = b"{}"
RECEIPT = "application/vnd.edge-training.residency-receipt.v1+json"
SBOM = CYCLONEDX


@dataclass(frozen=True)
class Attachment:
    """A document that is attached to an image.

    :param artifact_type: its media type, by which it is found.
    :param name: a file name for people.
    :param data: its bytes.
    """

    artifact_type: str
    name: str
    data: bytes

    @property
    def descriptor(self) -> Descriptor:
        """Return what the manifest says about the document."""
        return Descriptor.of_bytes(self.artifact_type, self.data)

    def manifest(self, subject: Descriptor) -> bytes:
        """Return the manifest that attaches the document.

        :param subject: the image's manifest.
        """
        layer = {**self.descriptor.to_json(), "annotations": {"org.opencontainers.image.title": self.name}}
        return canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": self.artifact_type,
                "config": Descriptor.of_bytes(OCI_EMPTY, EMPTY).to_json(),
                "layers": [layer],
                "subject": subject.to_json(),
            }
        )

    def listed(self, subject: Descriptor) -> dict[str, Any]:
        """Return how a list names the manifest.

        :param subject: the image's manifest.
        """
        described = Descriptor.of_bytes(OCI_MANIFEST, self.manifest(subject)).to_json()
        return {**described, "artifactType": self.artifact_type}


def find_referrers(client: RegistryClient, repository: str, digest: str) -> list[dict[str, Any]]:
    """Return what a registry lists as attached to an image: descriptors with ``artifactType``.

    :param client: the registry.
    :param repository: the repository.
    :param digest: the image's digest.
    :raises ImageError: when the list is damaged.
    :raises ServiceError: when the registry does not answer as it should.
    """
    body = client.find_referrers(repository, digest)
    if body is None:
        manifest = client.find_manifest(repository, fallback_tag(digest))
        body = manifest.body if manifest else canonical_json({"manifests": []})
    entries = load_json(body, f"The list of what is attached to {repository}@{digest}").get("manifests") or []
    return [entry for entry in entries if isinstance(entry, dict)]


def attach(
    client: RegistryClient, repository: str, subject: Descriptor, attachments: tuple[Attachment, ...]
) -> tuple[str, ...]:
    """Attach documents to an image, as far as they are not; their bytes and :data:`EMPTY` must be in the repository.

    :param client: the registry.
    :param repository: the repository.
    :param subject: the image's manifest.
    :param attachments: the documents.
    :returns: the digests of their manifests.
    :raises ImageError: when the registry stored something else.
    :raises ServiceError: when the registry does not answer as it should.
    """
    listed = find_referrers(client, repository, subject.digest) if attachments else []
    known = {entry.get("digest") for entry in listed}
    missing: list[dict[str, Any]] = []
    for attachment in attachments:
        entry = attachment.listed(subject)
        if entry["digest"] in known:
            continue
        body = attachment.manifest(subject)
        if client.put_manifest(repository, entry["digest"], body, OCI_MANIFEST) != subject.digest:
            missing.append(entry)
    if missing:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*listed, *missing]}
        client.put_manifest(repository, fallback_tag(subject.digest), canonical_json(index), OCI_INDEX)
    return tuple(attachment.listed(subject)["digest"] for attachment in attachments)


def fallback_tag(digest: str) -> str:
    """Return the tag under which a registry without a list of its own keeps it.

    :param digest: the image's digest.
    """
    return digest.replace(":", "-")
