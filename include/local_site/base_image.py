"""The Python base image of the site: Debian's own packages in one layer, made once with mmdebstrap.

In production the base is any Python image in the user's registry, named by digest. This one takes its place: it is as
small as Debian's minimal variant with Python allows, and the same packages always give the same layer.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from local_site import files
from local_site.errors import MissingToolError, PreparationError

if TYPE_CHECKING:
    from local_site.settings import Settings

SUITE = "bookworm"
# usr-is-merged keeps out a package that converts old installations and brings all of Perl with it.
PACKAGES = ("python3", "ca-certificates", "usr-is-merged")
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

# The day Debian 12 came out: every file that would carry the time of the build carries this one instead.
_EPOCH = 1686355200
_CREATED = "2023-06-10T00:00:00Z"
_CHUNK = 1 << 20
_UNWANTED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/i18n/*")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class BaseImage:
    """A finished image in the cache.

    :param folder: Holds `manifest.json`, and `config.json` and `layer.tar.gz` which it names by digest.
    """

    folder: Path

    @property
    def manifest(self) -> bytes:
        """The manifest, to the byte."""
        return (self.folder / "manifest.json").read_bytes()

    @property
    def digest(self) -> str:
        """The digest of the manifest, by which the image is named."""
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"

    def blobs(self) -> dict[str, Path]:
        """Return the files that the manifest names, by digest."""
        manifest = json.loads(self.manifest)
        return {
            manifest["config"]["digest"]: self.folder / "config.json",
            manifest["layers"][0]["digest"]: self.folder / "layer.tar.gz",
        }


def made(settings: Settings) -> bool:
    """Say whether the base image is in the cache.

    :param settings: The settings of the site.
    """
    return (_folder(settings) / "manifest.json").exists()


def ensure(settings: Settings) -> BaseImage:
    """Return the base image, made if it is not there; that takes about 45 seconds.

    :param settings: The settings of the site.
    :raises MissingToolError: mmdebstrap is not installed.
    :raises PreparationError: It cannot be made; the message holds what mmdebstrap said.
    """
    folder = _folder(settings)
    if not made(settings):
        with files.locked(settings.cache / "base-image.lock"):
            if not made(settings):
                _make(folder, _command())
    return BaseImage(folder)


def _folder(settings: Settings) -> Path:
    recipe = json.dumps([_command(), _EPOCH, _config("")])
    return settings.cache / "base-image" / hashlib.sha256(recipe.encode()).hexdigest()[:16]


def _command() -> list[str]:
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "--format=tar"]
    command.append("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
    # Device nodes could not be unpacked by an ordinary user; every sandbox has its own /dev. See _device_folder().
    command += [
        "--skip=output/dev",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages { "none"; }',
    ]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _UNWANTED]
    command.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    # What mmdebstrap took over from this machine is no business of an image.
    command.append('--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/apt/sources.list"')
    return [*command, SUITE, "-"]


def _mirrors() -> list[str]:
    """Return the lines of sources.list for the suite, as this machine is set up to use them.

    Without any, mmdebstrap uses its own default.
    """
    if shutil.which("apt-get") is None:
        return []
    query = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    suites = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    parts = [line.split() for line in dict.fromkeys(found.stdout.splitlines())]
    return [f"deb {' '.join(part)}" for part in parts if len(part) == 3 and part[1] in suites and part[2] == "main"]


def _make(folder: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        raise MissingToolError("mmdebstrap is missing, which makes the base image. Install it with: bin/setup")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as scratch:
        target = Path(scratch) / "image"
        target.mkdir()
        tar_digest = _build_layer(command, target / "layer.tar.gz")
        config = json.dumps(_config(tar_digest), sort_keys=True).encode()
        (target / "config.json").write_bytes(config)
        (target / "manifest.json").write_bytes(json.dumps(_manifest(target), sort_keys=True).encode())
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)


def _build_layer(command: list[str], target: Path) -> str:
    """Run mmdebstrap, compress what it writes, and return the digest of the uncompressed tar."""
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(_EPOCH), "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(
            [*command, *_mirrors()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=env
        ) as process:
            if process.stdout is None:
                raise PreparationError("mmdebstrap was started without an output.")
            digest = _compress(process.stdout, target)
        if process.returncode != 0:
            log.seek(0)
            said = log.read().decode(errors="replace").splitlines()[-15:]
            raise PreparationError(
                f"The base image cannot be made: mmdebstrap ended with {process.returncode}:\n" + "\n".join(said)
            )
    return digest


def _compress(source: IO[bytes], target: Path) -> str:
    whole = hashlib.sha256()
    # wbits=31: a gzip header, in which zlib writes neither a time nor a name. Level 1 is quick and 15 % larger.
    packer = zlib.compressobj(level=1, wbits=31)
    with target.open("wb") as file:
        for chunk in itertools.chain([_device_folder()], iter(lambda: source.read(_CHUNK), b"")):
            whole.update(chunk)
            file.write(packer.compress(chunk))
        file.write(packer.flush())
    return f"sha256:{whole.hexdigest()}"


def _device_folder() -> bytes:
    """Return the tar entry of an empty /dev, which a sandbox mounts its own over; mmdebstrap leaves out the folder, too."""
    entry = tarfile.TarInfo("./dev")
    entry.type = tarfile.DIRTYPE
    entry.mode = 0o755
    entry.mtime = _EPOCH
    return entry.tobuf(tarfile.GNU_FORMAT)


def _config(tar_digest: str) -> dict[str, Any]:
    return {
        "architecture": _MACHINES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": _CREATED,
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "Cmd": ["python3"],
        },
        "rootfs": {"type": "layers", "diff_ids": [tar_digest]},
        "history": [{"created": _CREATED, "created_by": f"mmdebstrap {SUITE} with {' '.join(PACKAGES)}"}],
    }


def _manifest(folder: Path) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, folder / "config.json"),
        "layers": [_descriptor(LAYER_TYPE, folder / "layer.tar.gz")],
    }


def _descriptor(media_type: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": path.stat().st_size}
