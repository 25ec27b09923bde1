from __future__ import annotations

import io
import os
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ImageError
from edge_training.images.unpack import RootFolder

if TYPE_CHECKING:
    from pathlib import Path


def file(name: str, data: bytes = b"x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    return member, data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def special(name: str, kind: bytes, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    return member, b""


def apply(root: RootFolder, folder: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    layer = folder / "layer.tar.gz"
    with tarfile.open(layer, "w:gz") as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    root.apply(layer)


@pytest.fixture
def root(tmp_path: Path) -> RootFolder:
    return RootFolder(tmp_path / "root")


def names(root: RootFolder) -> set[str]:
    return {
        path.relative_to(root.path).as_posix()
        for path in root.path.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def test_a_later_layer_replaces_and_adds_files(root: RootFolder, tmp_path: Path) -> None:
    apply(root, tmp_path, file("a/one"), file("a/two"))
    apply(root, tmp_path, file("a/two", b"new", 0o755), file("b/three"))
    assert names(root) == {"a/one", "a/two", "b/three"}
    assert (root.path / "a/two").read_bytes() == b"new"
    assert stat.S_IMODE((root.path / "a/two").stat().st_mode) == 0o755


@pytest.mark.parametrize(("said", "kept"), [(1_600_000_000.7, 1_600_000_000), (-5.0, 0), (1e300, 2**31 - 1)])
def test_a_file_has_the_time_that_its_layer_says(root: RootFolder, tmp_path: Path, said: float, kept: int) -> None:
    member, data = file("a/one")
    member.pax_headers = {"mtime": str(said)}
    apply(root, tmp_path, (member, data))
    assert (root.path / "a/one").stat().st_mtime == kept


@pytest.mark.parametrize("said", ["nan", "inf"])
def test_a_time_that_is_no_time_is_taken_for_the_earliest(root: RootFolder, tmp_path: Path, said: str) -> None:
    member, data = file("a/one")
    member.pax_headers = {"mtime": said}
    apply(root, tmp_path, (member, data))
    assert (root.path / "a/one").stat().st_mtime == 0


def test_a_module_that_is_replaced_takes_what_it_was_compiled_to_along(root: RootFolder, tmp_path: Path) -> None:
    apply(root, tmp_path, file("a/one.py"), file("a/one_more.py"), file("a/two.py"))
    for name in ("one.cpython-311", "one.cpython-311.opt-1", "one_more.cpython-311", "two.cpython-311"):
        apply(root, tmp_path, file(f"a/__pycache__/{name}.pyc"))
    apply(root, tmp_path, file("a/__pycache__/two.cpython-311.pyc", b"its own"), file("a/one.py"), file("a/two.py"))
    kept = {"one_more.cpython-311.pyc", "two.cpython-311.pyc"}
    assert {path.name for path in (root.path / "a/__pycache__").iterdir()} == kept


def test_a_module_that_comes_back_after_a_whiteout_is_not_what_was_compiled_before(
    root: RootFolder, tmp_path: Path
) -> None:
    apply(root, tmp_path, file("a/one.py"), file("a/__pycache__/one.cpython-311.pyc"))
    apply(root, tmp_path, file("a/.wh.one.py"))
    apply(root, tmp_path, file("a/one.py", b"y"))
    assert names(root) == {"a/one.py"}


def test_what_was_compiled_is_looked_for_inside_the_image_only(root: RootFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "one.cpython-311.pyc").write_bytes(b"somebody's")
    apply(root, tmp_path, file("a/one.py"), link("a/__pycache__", str(outside)))
    apply(root, tmp_path, file("a/one.py", b"new"))
    assert [path.name for path in outside.iterdir()] == ["one.cpython-311.pyc"]


def test_a_whiteout_removes_what_a_lower_layer_put_there(root: RootFolder, tmp_path: Path) -> None:
    apply(root, tmp_path, file("a/one"), file("a/sub/two"), file("b"))
    apply(root, tmp_path, file("a/.wh.sub"), file(".wh.b"), file("a/.wh.never-was"))
    assert names(root) == {"a/one"}


def test_an_opaque_folder_hides_the_lower_layers_and_keeps_its_own(root: RootFolder, tmp_path: Path) -> None:
    apply(root, tmp_path, file("a/old"), file("a/sub/old"))
    apply(root, tmp_path, file("a/new"), file("a/.wh..wh..opq"), file("a/sub/new"))
    assert names(root) == {"a/new", "a/sub/new"}


def test_a_whiteout_of_the_folder_above_is_refused(root: RootFolder, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a whiteout of nothing"):
        apply(root, tmp_path, file("a/.wh..."), file("a/.wh..", b""))


def test_a_link_inside_the_image_is_followed_inside_the_image(root: RootFolder, tmp_path: Path) -> None:
    apply(root, tmp_path, special("usr/lib", tarfile.DIRTYPE), link("lib", "usr/lib"), link("abs", "/usr/lib"))
    apply(root, tmp_path, file("lib/one"), file("abs/two"))
    assert names(root) == {"lib", "abs", "usr/lib/one", "usr/lib/two"}


@pytest.mark.parametrize("target", ["/", "../../../..", "{outside}", "/../../.."])
def test_nothing_is_written_through_a_link_that_leads_out_of_the_image(
    root: RootFolder, tmp_path: Path, target: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    apply(root, tmp_path, link("trap", target.format(outside=outside)), file("trap/escaped"))
    assert list(outside.iterdir()) == []
    assert all(path.is_relative_to(root.path) for path in tmp_path.rglob("escaped"))
    assert list(tmp_path.rglob("escaped"))


def test_a_file_does_not_write_through_a_link_of_its_own_name(root: RootFolder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    apply(root, tmp_path, link("f", str(secret)), file("f", b"theirs"))
    assert secret.read_text() == "mine"
    assert (root.path / "f").read_bytes() == b"theirs"


def test_a_hard_link_to_a_file_outside_of_the_image_is_refused(root: RootFolder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    apply(root, tmp_path, link("out", str(tmp_path)))
    for target in ("out/secret", "../secret", str(secret)):
        with pytest.raises(ImageError):
            apply(root, tmp_path, link("copy", target, tarfile.LNKTYPE))
    assert not (root.path / "copy").exists()


def test_a_hard_link_to_a_file_of_the_image_shares_its_content(root: RootFolder, tmp_path: Path) -> None:
    apply(root, tmp_path, file("a/one", b"shared"), link("b/two", "a/one", tarfile.LNKTYPE))
    assert (root.path / "b/two").samefile(root.path / "a/one")


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up"])
def test_a_name_that_leads_out_of_the_image_is_refused(root: RootFolder, tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="leads out of the image"):
        apply(root, tmp_path, file(name))


def test_device_nodes_pipes_and_set_user_id_bits_are_left_out(root: RootFolder, tmp_path: Path) -> None:
    apply(
        root,
        tmp_path,
        special("dev/sda", tarfile.BLKTYPE),
        special("dev/null", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
        file("su", mode=0o4755),
        special("tmp", tarfile.DIRTYPE, 0o1777),
    )
    assert names(root) == {"su"}
    assert stat.S_IMODE((root.path / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((root.path / "tmp").stat().st_mode) == 0o1777


def test_links_in_a_circle_are_refused(root: RootFolder, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="in a circle"):
        apply(root, tmp_path, link("a", "b"), link("b", "a"), file("a/f"))


def test_a_folder_may_become_a_file_and_a_file_a_folder(root: RootFolder, tmp_path: Path) -> None:
    apply(root, tmp_path, file("a/f"), file("b"))
    apply(root, tmp_path, file("a"), file("b/f"))
    assert names(root) == {"a", "b/f"}


def test_a_folder_without_permissions_can_still_be_filled(root: RootFolder, tmp_path: Path) -> None:
    apply(root, tmp_path, special("a", tarfile.DIRTYPE, 0o000), file("a/f"))
    assert os.access(root.path / "a", os.W_OK | os.X_OK)


@pytest.mark.parametrize("data", [b"", b"no tar at all", b"\x1f\x8b\x08\x00damaged"])
def test_a_layer_that_is_no_tar_file_is_refused(root: RootFolder, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "layer").write_bytes(data)
    with pytest.raises(ImageError, match="cannot be unpacked"):
        root.apply(tmp_path / "layer")
