"""Unpacks the layers of an image into a folder, without ever writing outside of it.

Layers come from a registry: names and links in them are data of a stranger. Every path is walked part by part inside the
folder, links are followed as if the folder were the root, and neither device nodes nor set-uid bits nor owners are taken over.
"""

from __future__ import annotations

import glob
import os
import shutil
import stat
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edge_training.exceptions import ImageError
from edge_training.images.compression import open_plain
from edge_training.images.layers import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterable

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MOST_LINKS = 40
_LATEST = 2**31 - 1


class RootFolder:
    """A folder that is filled with the layers of one image, the lowest first.

    :param path: the folder; it is made when absent and should be empty.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path.resolve()
        # Folders whose real place is known. Emptied whenever a link or a removal may have changed what a name means.
        self._known: dict[PurePosixPath, Path] = {}
        self._of_this_layer: set[Path] = set()

    def apply(self, layer: Path) -> None:
        """Unpack one layer on top of what is there.

        :param layer: the tar file, plain or packed with gzip or zstd.
        :raises ConfigurationError: when it is packed with zstd, which needs a package that is not installed.
        :raises ImageError: when it is not one, or a member would be written outside of the folder.
        """
        self._of_this_layer = set()
        try:
            with open_plain(layer) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
                self._apply_members(tar, tar)
        except (tarfile.TarError, EOFError, zlib.error, UnicodeError) as error:
            raise ImageError(
                f"Layer {layer.name} cannot be unpacked, it is not a tar file, nor one with gzip or zstd: {error}."
            ) from error

    def _apply_members(self, tar: tarfile.TarFile, members: Iterable[tarfile.TarInfo]) -> None:
        for member in members:
            name = _checked(member.name)
            if not name.parts:
                continue
            if name.name.startswith(_WHITEOUT):
                self._white_out(name)
            else:
                self._write(tar, member, name)

    def _white_out(self, name: PurePosixPath) -> None:
        """Remove what a lower layer put there; what this layer puts there stays."""
        parent = self._folder(name.parent)
        if name.name == _OPAQUE:
            for child in list(parent.iterdir()):
                self._remove_lower(child)
        else:
            hidden = name.name.removeprefix(_WHITEOUT)
            if hidden in {"", ".", ".."}:
                raise ImageError(f"A layer holds '{name}', a whiteout of nothing: the image is damaged.")
            self._remove_lower(parent / hidden)
        self._known.clear()

    def _remove_lower(self, path: Path) -> None:
        if path in self._of_this_layer:
            return
        if path.is_dir() and not path.is_symlink():
            for child in list(path.iterdir()):
                self._remove_lower(child)
            if not any(path.iterdir()):
                path.rmdir()
        else:
            self._remove_file(path)

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: PurePosixPath) -> None:
        parent = self._folder(name.parent)
        path = parent / name.name
        self._of_this_layer.update((path, parent))
        if member.isdir():
            self._write_folder(path, member.mode)
        elif member.isreg():
            self._write_file(tar, member, path)
        elif member.issym():
            self._clear(path)
            path.symlink_to(member.linkname)
            self._known.clear()
        elif member.islnk():
            self._link(path, _checked(member.linkname))
        # Device nodes and pipes are left out: the sandbox has a /dev of its own.

    def _write_folder(self, path: Path, mode: int) -> None:
        if path.is_symlink() or not path.is_dir():
            self._clear(path)
            path.mkdir()
        # We must be able to write into it further on, whatever the image says.
        path.chmod(stat.S_IMODE(mode) & 0o1777 | stat.S_IRWXU)

    def _write_file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        self._clear(path)
        source = tar.extractfile(member)
        if source is None:
            raise ImageError(f"A layer holds '{member.name}' without its content: the image is damaged.")
        mode = stat.S_IMODE(member.mode) & 0o777 | stat.S_IRUSR | stat.S_IWUSR
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with source, os.fdopen(handle, "wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
            os.fchmod(handle, mode)
            target.flush()
            # What an image brings compiled is for sources of this time.
            os.utime(handle, (_time(member), _time(member)))

    def _link(self, path: Path, wanted: PurePosixPath) -> None:
        existing = self._folder(wanted.parent) / wanted.name
        if existing.is_symlink() or not existing.is_file():
            raise ImageError(
                f"A layer links '{path.name}' to '{wanted}', which is not a file of the image: it is damaged."
            )
        self._clear(path)
        os.link(existing, path, follow_symlinks=False)

    def _clear(self, path: Path) -> None:
        """Make room for a member that replaces what a lower layer put there."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            self._known.clear()
        elif os.path.lexists(path):
            self._remove_file(path)
            self._known.clear()

    def _remove_file(self, path: Path) -> None:
        """Remove a file, and what a lower layer's module was compiled to with it.

        Python goes by time and size, which a module and its successor may have in common in layers that are the same whenever made.
        """
        path.unlink(missing_ok=True)
        folder = path.parent / "__pycache__"
        if path.suffix == ".py" and folder.is_dir() and not folder.is_symlink():
            for compiled in folder.glob(f"{glob.escape(path.stem)}.*.pyc"):
                self._remove_lower(compiled)

    def _folder(self, name: PurePosixPath) -> Path:
        """Return the real place of a folder of the image, made when absent, with links followed inside the root."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._walk(name)
        return known

    def _walk(self, name: PurePosixPath) -> Path:
        here, left, links = self.path, list(reversed(name.parts)), 0
        while left:
            part = left.pop()
            if part == "..":
                here = here if here == self.path else here.parent
                continue
            step = here / part
            if step.is_symlink():
                links += 1
                if links > _MOST_LINKS:
                    raise ImageError(f"The links of '{name}' in the image lead in a circle: it is damaged.")
                target = PurePosixPath(step.readlink())
                here = self.path if target.is_absolute() else here
                left += [one for one in reversed(target.parts) if one != "/"]
                continue
            if not step.is_dir():
                step.unlink(missing_ok=True)
                step.mkdir(mode=0o755)
            here = step
        return here


def _time(member: tarfile.TarInfo) -> int:
    """Return a member's time in seconds, as near as all file systems can keep it."""
    try:
        return min(max(int(member.mtime), 0), _LATEST)
    except (ValueError, OverflowError):
        # A member can say that its time is not a number, or infinite.
        return 0


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ImageError(
            f"A layer holds '{name}', a path that leads out of the image: it is damaged, or somebody means harm."
        )
    return path
