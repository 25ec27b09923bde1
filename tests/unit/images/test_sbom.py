from __future__ import annotations

import hashlib
import json
import zipfile
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ImageError
from edge_training.images.sbom import Package, bill_of_materials, package_of, pinned_packages

if TYPE_CHECKING:
    from pathlib import Path

LAYER = "sha256:" + "1" * 64


def wheel(folder: Path, metadata: str, info: str = "Some.Package-1.0.dist-info") -> Path:
    path = folder / "some_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.4\nName: Some.Package\nVersion: 1.0\n{metadata}")
    return path


def read(path: Path) -> Package:
    with zipfile.ZipFile(path) as archive:
        return package_of(path, archive)


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ("License-Expression: MIT\nLicense: something else\n", "MIT"),
        ("License: BSD\n", "BSD"),
        ("Classifier: License :: OSI Approved :: MIT License\n", "MIT License"),
        (f"License: {'the whole text ' * 20}\nClassifier: License :: OSI Approved :: MIT License\n", "MIT License"),
        ("", ""),
    ],
)
def test_a_package_is_what_its_wheel_says(tmp_path: Path, metadata: str, named: str) -> None:
    path = wheel(tmp_path, metadata)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read(path) == Package("Some.Package", "1.0", named, digest)


def test_a_wheel_without_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="it has no metadata"):
        read(wheel(tmp_path, "", info="elsewhere/x.dist-info"))


def test_the_bill_names_every_package_by_version_address_and_hash() -> None:
    packages = [Package("Zeta", "2.0", "", "b" * 64), Package("Some.Package", "1.0", "MIT", "a" * 64)]
    bill = json.loads(bill_of_materials(packages, LAYER))
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    first, second = bill["components"]
    assert first == {
        "type": "library",
        "bom-ref": "pkg:pypi/some-package@1.0",
        "name": "Some.Package",
        "version": "1.0",
        "purl": "pkg:pypi/some-package@1.0",
        "hashes": [{"alg": "SHA-256", "content": "a" * 64}],
        "licenses": [{"license": {"name": "MIT"}}],
    }
    assert second["name"] == "Zeta"
    assert "licenses" not in second


def test_the_same_packages_give_the_same_bill_in_any_order() -> None:
    packages = [Package("a", "1", "MIT", "a" * 64), Package("b", "1", "", "b" * 64)]
    assert bill_of_materials(packages, LAYER) == bill_of_materials(packages[::-1], LAYER)


def test_packages_that_somebody_else_installs_are_named_without_the_hash_of_a_wheel() -> None:
    packages = pinned_packages(["numpy==2.4.6", "azure-core[aio]==1.39.0 ; python_version > '3'", "not pinned"])
    assert [(one.name, one.version) for one in packages] == [("numpy", "2.4.6"), ("azure-core", "1.39.0")]
    (first, second) = json.loads(bill_of_materials(packages, LAYER))["components"]
    assert first["purl"] == "pkg:pypi/azure-core@1.39.0"
    assert "hashes" not in first
    assert "hashes" not in second
