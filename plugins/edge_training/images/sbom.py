"""What is in the layer of the serving dependencies, as a software bill of materials (CycloneDX 1.6, cyclonedx.org)."""

from __future__ import annotations

import email.parser
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ImageError
from edge_training.images.media_types import canonical_json

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterable
    from pathlib import Path

CYCLONEDX = "application/vnd.cyclonedx+json"
# Names of licences in metadata older than licence expressions run to whole texts.
_LONGEST_LICENSE = 100


@dataclass(frozen=True)
class Package:
    """One installed package.

    :param name: its name in the package index.
    :param version: its version.
    :param license: its licence as its metadata has it, ``""`` when it does not tell.
    :param sha256: hex digest of its wheel; ``""`` when it is not known which one was installed.
    """

    name: str
    version: str
    license: str
    sha256: str


def package_of(wheel: Path, archive: zipfile.ZipFile) -> Package:
    """Read what a wheel says about itself.

    :param wheel: the ``.whl`` file.
    :param archive: the same, open.
    :raises ImageError: when it has no metadata.
    """
    found = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
    if not found:
        raise ImageError(f"'{wheel.name}' is not a wheel: it has no metadata.")
    metadata = email.parser.Parser().parsestr(archive.read(found[0]).decode(errors="replace"), headersonly=True)
    with wheel.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Package(str(metadata["Name"]), str(metadata["Version"]), _license(metadata), digest)


def _license(metadata: Any) -> str:
    if expression := metadata["License-Expression"]:
        return str(expression)
    classified = [str(one) for one in metadata.get_all("Classifier", []) if str(one).startswith("License ::")]
    named = str(metadata["License"] or "").strip()
    if named and len(named) <= _LONGEST_LICENSE and "\n" not in named:
        return named
    return classified[0].rpartition("::")[2].strip() if classified else ""


def pinned_packages(requirements: Iterable[str]) -> tuple[Package, ...]:
    """Return the packages of requirements with exact versions, of which no wheel was seen.

    :param requirements: such as ``numpy==2.4.6``, with or without extras and markers.
    """
    found = (re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", line) for line in requirements)
    return tuple(Package(match[1], match[2], "", "") for match in found if match)


def bill_of_materials(packages: Iterable[Package], digest: str) -> bytes:
    """Return the bill of a layer or image; the same packages give the same bytes, so it carries neither time nor number.

    :param packages: what is in it.
    :param digest: the ``sha256:<hex>`` of the layer, or of the image's manifest.
    """
    return canonical_json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "component": {
                    "type": "container",
                    "name": "serving dependencies",
                    "bom-ref": digest,
                    "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
                }
            },
            "components": [_component(package) for package in sorted(packages, key=lambda one: one.name.lower())],
        }
    )


def _component(package: Package) -> dict[str, Any]:
    # The package index's own way to write a name, which package URLs demand.
    normal = re.sub(r"[-_.]+", "-", package.name).lower()
    url = f"pkg:pypi/{normal}@{package.version}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": url,
        "name": package.name,
        "version": package.version,
        "purl": url,
    }
    if package.sha256:
        component["hashes"] = [{"alg": "SHA-256", "content": package.sha256}]
    if package.license:
        component["licenses"] = [{"license": {"name": package.license}}]
    return component
