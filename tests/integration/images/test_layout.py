"""An OCI layout: written by us, read by what others would read it with."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.images.layout import LayoutPublisher
from edge_training.images.media_types import digest_of
from edge_training.images.referrers import SBOM, Attachment
from tests.integration.images.support import push_base
from tests.integration.images.test_publish_and_pull import build

if TYPE_CHECKING:
    from pathlib import Path

    from edge_training.images.registry import RegistryClient

BILL = Attachment(SBOM, "bill.json", b'{"bomFormat":"CycloneDX"}')


def blob(folder: Path, digest: str) -> bytes:
    data = (folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
    assert digest_of(data) == digest
    return data


def test_a_layout_holds_all_of_the_image_with_its_base_and_names_it(client: RegistryClient, tmp_path: Path) -> None:
    push_base(client, "carried/base:1", {"bin/python3": b"x"})
    image = build(client, tmp_path / "made", "carried/base:1", b"model")
    folder = tmp_path / "carried"
    published = LayoutPublisher(folder, client).publish(image, "v1", (BILL,))
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    named, attached = json.loads((folder / "index.json").read_text())["manifests"]
    assert named["digest"] == published.reference.digest == image.digest
    assert named["annotations"] == {"org.opencontainers.image.ref.name": "v1"}
    manifest = json.loads(blob(folder, named["digest"]))
    for descriptor in (manifest["config"], *manifest["layers"]):
        assert len(blob(folder, descriptor["digest"])) == descriptor["size"]
    assert attached["artifactType"] == SBOM
    document = json.loads(blob(folder, attached["digest"]))
    assert document["subject"]["digest"] == image.digest
    assert blob(folder, document["layers"][0]["digest"]) == BILL.data
    assert not list(folder.rglob("*.partial"))


def test_a_second_image_adds_only_what_is_new_and_the_first_stays(client: RegistryClient, tmp_path: Path) -> None:
    push_base(client, "carried/two:1", {"bin/python3": b"x"})
    publisher = LayoutPublisher(tmp_path / "carried", client)
    first = publisher.publish(build(client, tmp_path / "1", "carried/two:1", b"first"), "v1")
    second = publisher.publish(build(client, tmp_path / "2", "carried/two:1", b"second"), "v2")
    assert [one.way for one in first.transfers] == ["copied", "sent", "sent"]
    assert [one.way for one in second.transfers] == ["present", "sent", "sent"]
    named = json.loads((tmp_path / "carried/index.json").read_text())["manifests"]
    assert [one["digest"] for one in named] == [first.reference.digest, second.reference.digest]
    moved = publisher.publish(build(client, tmp_path / "3", "carried/two:1", b"third"), "v1")
    assert moved.moved_from == first.reference.digest


def test_writing_it_again_changes_nothing(client: RegistryClient, tmp_path: Path) -> None:
    push_base(client, "carried/again:1", {"f": b"x"})
    image = build(client, tmp_path / "made", "carried/again:1", b"model")
    publisher = LayoutPublisher(tmp_path / "carried", client)
    publisher.publish(image, "v1", (BILL,))
    before = {path: path.read_bytes() for path in (tmp_path / "carried").rglob("*") if path.is_file()}
    again = publisher.publish(image, "v1", (BILL,))
    assert {one.way for one in again.transfers} == {"present"}
    assert {path: path.read_bytes() for path in (tmp_path / "carried").rglob("*") if path.is_file()} == before


def test_a_layer_that_was_changed_is_refused_and_the_image_is_not_named(client: RegistryClient, tmp_path: Path) -> None:
    push_base(client, "carried/bad:1", {"f": b"x"})
    image = build(client, tmp_path / "made", "carried/bad:1", b"model")
    image.layers[0].file.write_bytes(b"changed")
    with pytest.raises(ImageError, match="was changed after it was made"):
        LayoutPublisher(tmp_path / "carried", client).publish(image, "v1")
    assert not (tmp_path / "carried/index.json").exists()
    assert not list((tmp_path / "carried").rglob("*.partial"))


def test_a_folder_that_holds_something_else_is_left_alone(client: RegistryClient, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ConfigurationError, match="holds something else"):
        LayoutPublisher(tmp_path, client)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_reads_the_layout(client: RegistryClient, tmp_path: Path) -> None:
    push_base(client, "carried/skopeo:1", {"f": b"x"})
    image = build(client, tmp_path / "made", "carried/skopeo:1", b"model")
    folder = tmp_path / "carried"
    LayoutPublisher(folder, client).publish(image, "v1", (BILL,))
    target = tmp_path / "image.tar"
    command = ["skopeo", "copy", "--quiet", f"oci:{folder}:v1", f"docker-archive:{target}:model:v1"]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(target) as archive:
        assert "manifest.json" in archive.getnames()
