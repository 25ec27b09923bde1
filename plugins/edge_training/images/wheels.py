"""Wheels become files of a layer without any code of theirs being run.

What an installer has to do is written in the binary distribution format
(packaging.python.org/en/latest/specifications/binary-distribution-format): put the two kinds of library into one
folder, spread what is under ``.data``, write the console scripts and a new ``RECORD``.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import importlib.util
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast

from edge_training.exceptions import ConfigurationError, ImageError
from edge_training.images.layers import CHUNK, LayerFile

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterator
    from pathlib import Path

_ARCHITECTURES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
# Debian 12 and Ubuntu 22.04 are newer; a wheel for a newer glibc would not start on the oldest supported base.
_NEWEST_GLIBC = 28
_LEGACY = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}
_SECONDS = 900

# What says how a package was installed is the installer's to write, not the wheel's.
_OF_INSTALLERS = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})

# Console scripts name no interpreter by path: the base image decides where Python is.
_SHEBANG = b"#!/usr/bin/env python3\n"
_SCRIPT = "import sys\nfrom {module} import {function}\nsys.exit({call}())\n"


def download_wheels(lock: Path, target: Path, *, platform: str, python: str) -> list[Path]:
    """Download exactly the wheels of a lock, for a platform that need not be this machine's.

    :param lock: requirements with exact versions and hashes.
    :param target: the folder that receives them.
    :param platform: ``linux/amd64`` or ``linux/arm64``.
    :param python: the image's Python, such as ``"3.11"``.
    :raises ConfigurationError: when the lock is missing or the platform unknown.
    :raises ImageError: when pip is missing or a wheel cannot be had; nothing was built from source.
    """
    if not lock.is_file():
        raise ConfigurationError(f"The lock of the serving dependencies, '{lock}', does not exist: run 'make lock'.")
    if importlib.util.find_spec("pip") is None:
        raise ImageError(
            f"The serving dependencies are downloaded with pip, which {sys.executable} does not have: "
            f"install it (python -m ensurepip), or fill the cache of layers on a machine that has it."
        )
    abi = "cp" + python.replace(".", "")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation=cp"]
    command += [f"--python-version={python}", f"--abi={abi}", "--abi=abi3", "--abi=none"]
    command += [f"--platform={tag}" for tag in _platform_tags(platform)]
    command += [f"--dest={target}", f"--requirement={lock}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ImageError(
            f"Downloading the wheels of '{lock}' took longer than {_SECONDS} s: try again.", retryable=True
        ) from None
    if done.returncode:
        raise ImageError(
            f"pip could not download the wheels of '{lock}' for {platform}: {done.stderr.strip()[-800:]}",
            retryable=True,
        )
    return sorted(target.glob("*.whl"))


def _platform_tags(platform: str) -> list[str]:
    architecture = _ARCHITECTURES.get(platform)
    if architecture is None:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise ConfigurationError(f"There are no serving dependencies for platform '{platform}': known are {known}.")
    modern = [f"manylinux_2_{minor}_{architecture}" for minor in range(_NEWEST_GLIBC, 4, -1)]
    return modern + [f"{name}_{architecture}" for name in _LEGACY[architecture]]


def unpack_wheel(archive: zipfile.ZipFile, *, site_packages: str, prefix: str) -> list[LayerFile]:
    """Return a wheel's files as an installer would lay them out.

    :param archive: the open ``.whl`` file; it must stay open until the files have been read.
    :param site_packages: the folder for modules in the image, without slashes at its ends.
    :param prefix: the folder for scripts (``bin``) and data, likewise.
    :raises ImageError: when it is not a wheel, or a member's path leads out of it.
    """
    wheel = PurePosixPath(archive.filename or "wheel").name
    members = [member for member in archive.infolist() if not member.is_dir()]
    info = _dist_info(wheel, members)
    layout = _Layout(archive, wheel, info, site_packages, prefix)
    hashes = _recorded_hashes(_read_text(archive, f"{info}/RECORD"))
    placed = ((layout.place(member), member.filename) for member in members)
    files = [(file, hashes.get(name) or _hash(file)) for file, name in placed if file is not None]
    made = list(_console_scripts(_read_text(archive, f"{info}/entry_points.txt"), prefix))
    made.append(LayerFile.of_bytes(f"{site_packages}/{info}/INSTALLER", b"edge-training\n"))
    files += [(file, _hash(file)) for file in made]
    return [*(file for file, _ in files), _record(files, f"{site_packages}/{info}/RECORD", site_packages)]


def _dist_info(wheel: str, members: list[zipfile.ZipInfo]) -> str:
    found = {PurePosixPath(member.filename).parts[0] for member in members if member.filename.endswith("/METADATA")}
    folders = sorted(name for name in found if name.endswith(".dist-info"))
    if len(folders) != 1:
        raise ImageError(f"'{wheel}' is not a wheel: it has {len(folders)} .dist-info folders, expected 1.")
    return folders[0]


@dataclass(frozen=True)
class _Layout:
    """Where the members of one wheel go."""

    archive: zipfile.ZipFile
    wheel: str
    info: str
    site_packages: str
    prefix: str

    def place(self, member: zipfile.ZipInfo) -> LayerFile | None:
        """Return a member as a file of the layer, or ``None`` when it goes nowhere."""
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts:
            raise ImageError(f"'{self.wheel}' holds '{member.filename}', a path that leads out of it.")
        if path.parts[0] == self.info.removesuffix(".dist-info") + ".data":
            return self._place_data(member, path)
        if path.parts[0] == self.info and path.name in _OF_INSTALLERS and len(path.parts) == 2:
            return None
        return self._file(f"{self.site_packages}/{path}", member)

    def _place_data(self, member: zipfile.ZipInfo, path: PurePosixPath) -> LayerFile | None:
        scheme, rest = path.parts[1], "/".join(path.parts[2:])
        match scheme:
            case "purelib" | "platlib" if rest:
                return self._file(f"{self.site_packages}/{rest}", member)
            case "data" if rest:
                return self._file(f"{self.prefix}/{rest}", member)
            case "scripts" if rest:
                script = _script(self.archive.read(member))
                return LayerFile.of_bytes(f"{self.prefix}/bin/{rest}", script, executable=True)
            case "headers":
                return None  # nothing is compiled in the image
        raise ImageError(f"'{self.wheel}' holds '{member.filename}', which belongs to none of a wheel's schemes.")

    def _file(self, path: str, member: zipfile.ZipInfo) -> LayerFile:
        executable = bool(member.external_attr >> 16 & 0o100)
        return LayerFile(path, member.file_size, lambda: cast("BinaryIO", self.archive.open(member)), executable)


def _recorded_hashes(record: str) -> dict[str, str]:
    """Return member → ``sha256=...`` from a wheel's own list; its hashes need not be computed again."""
    rows = [row for row in csv.reader(io.StringIO(record)) if len(row) == 3]
    return {name: digest for name, digest, _ in rows if digest.startswith("sha256=") and not _is_script(name)}


def _is_script(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) > 1 and parts[0].endswith(".data") and parts[1] == "scripts"


def _script(body: bytes) -> bytes:
    """Return a script of a wheel with the interpreter's name filled in, as the format demands."""
    first, newline, rest = body.partition(b"\n")
    return _SHEBANG + rest if newline and first.startswith(b"#!python") else body


def _read_text(archive: zipfile.ZipFile, name: str) -> str:
    return archive.read(name).decode() if name in archive.namelist() else ""


def _console_scripts(entry_points: str, prefix: str) -> Iterator[LayerFile]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = lambda optionstr: optionstr  # type: ignore[method-assign]  # names keep their case
    parser.read_string(entry_points)
    section = parser["console_scripts"] if parser.has_section("console_scripts") else {}
    for name, target in section.items():
        module, _, function = target.partition("[")[0].strip().partition(":")
        text = _SCRIPT.format(module=module.strip(), function=function.split(".")[0].strip(), call=function.strip())
        yield LayerFile.of_bytes(f"{prefix}/bin/{name}", _SHEBANG + text.encode(), executable=True)


def _record(files: list[tuple[LayerFile, str]], path: str, site_packages: str) -> LayerFile:
    """Return the list of installed files with their hashes; the same for the same wheel."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for file, digest in sorted(files, key=lambda one: one[0].path):
        writer.writerow([_relative(file.path, site_packages), digest, file.size])
    writer.writerow([_relative(path, site_packages), "", ""])
    return LayerFile.of_bytes(path, text.getvalue().encode())


def _relative(path: str, site_packages: str) -> str:
    inside = path.removeprefix(site_packages + "/")
    return inside if inside != path else "/" + path


def _hash(file: LayerFile) -> str:
    digest = hashlib.sha256()
    with file.open() as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return "sha256=" + base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
