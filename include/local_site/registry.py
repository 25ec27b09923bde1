"""The registry of the site: Debian's docker-registry with TLS and a password, holding the Python base image."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from local_site import base_image, files
from local_site.errors import MissingToolError, PreparationError
from local_site.probes import answers_https
from local_site.processes import Service

if TYPE_CHECKING:
    from pathlib import Path

    import requests

    from local_site.base_image import BaseImage
    from local_site.credentials import Credentials
    from local_site.settings import Settings

_TIMEOUT_SECONDS = 60


def service(settings: Settings) -> Service:
    """Describe the registry as a background process.

    :param settings: The settings of the site.
    :raises MissingToolError: docker-registry is not installed.
    """
    if shutil.which("docker-registry") is None:
        raise MissingToolError(
            "docker-registry, of Debian's package of that name, is missing. Install it with: bin/setup"
        )
    return Service(
        name="registry",
        argv=("docker-registry", "serve", str(settings.state / "registry/config.yml")),
        # The cloud credentials of whoever starts it are no business of the registry.
        env={"OTEL_TRACES_EXPORTER": "none"},
        cwd=settings.state,
        log=settings.logs / "registry.log",
        ready=lambda: answers_https(settings.registry_port, settings.tls, "/v2/"),
        port=settings.registry_port,
        port_setting="LOCAL_SITE_REGISTRY_PORT",
    )


def prepare(settings: Settings, credentials: Credentials) -> None:
    """Write the settings of the registry and its password file.

    :param settings: The settings of the site.
    :param credentials: The secrets of the site.
    """
    folder = settings.state / "registry"
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {
            "addr": settings.registry,
            # Upload sessions survive a restart only when they are signed with the same secret.
            "secret": credentials.registry_password,
            "tls": {"certificate": str(settings.tls / "server.pem"), "key": str(settings.tls / "server.key")},
        },
        "auth": {"htpasswd": {"realm": "local-site", "path": str(folder / "htpasswd")}},
    }
    # JSON is YAML.
    files.write(folder / "config.yml", json.dumps(config, indent=2), files.PRIVATE)
    _write_password(folder / "htpasswd", credentials)


def _write_password(path: Path, credentials: Credentials) -> None:
    import bcrypt

    password = credentials.registry_password.encode()
    if path.exists() and bcrypt.checkpw(password, path.read_bytes().strip().partition(b":")[2]):
        return
    # Few rounds, because it is paid for by every request and the password is random and long.
    hashed = bcrypt.hashpw(password, bcrypt.gensalt(rounds=4)).decode()
    files.write(path, f"{credentials.registry_user}:{hashed}\n", files.PRIVATE)


def fill(settings: Settings, credentials: Credentials, image: BaseImage) -> None:
    """Push the base image, as far as it is not there.

    :param settings: The settings of the site.
    :param credentials: The secrets of the site.
    :param image: The base image.
    :raises PreparationError: The registry does not take it.
    """
    import requests

    repository, tag = settings.base_image
    root = f"https://{settings.registry}/v2/{repository}"
    manifest_url = f"{root}/manifests/{tag}"
    with requests.Session() as session:
        # Otherwise a REQUESTS_CA_BUNDLE would be believed rather than `verify`.
        session.trust_env = False
        session.verify = str(settings.tls / "ca.pem")
        session.auth = (credentials.registry_user, credentials.registry_password)
        held = session.head(manifest_url, headers={"Accept": base_image.MANIFEST_TYPE}, timeout=_TIMEOUT_SECONDS)
        if held.headers.get("Docker-Content-Digest") == image.digest:
            return
        for digest, path in image.blobs().items():
            _push_blob(session, root, digest, path)
        headers = {"Content-Type": base_image.MANIFEST_TYPE}
        _expect(session.put(manifest_url, data=image.manifest, headers=headers, timeout=_TIMEOUT_SECONDS), 201)


def _push_blob(session: requests.Session, root: str, digest: str, path: Path) -> None:
    if session.head(f"{root}/blobs/{digest}", timeout=_TIMEOUT_SECONDS).status_code == 200:
        return
    upload = _expect(session.post(f"{root}/blobs/uploads/", timeout=_TIMEOUT_SECONDS), 202)
    with path.open("rb") as file:
        answer = session.put(
            upload.headers["Location"],
            params={"digest": digest},
            data=file,
            headers={"Content-Type": "application/octet-stream"},
            timeout=_TIMEOUT_SECONDS,
        )
    _expect(answer, 201)


def _expect(answer: requests.Response, status: int) -> requests.Response:
    if answer.status_code != status:
        raise PreparationError(
            f"The registry did not take the base image: {answer.request.method} {answer.url.partition('?')[0]} "
            f"was answered with {answer.status_code} instead of {status}: {answer.text[:300]}"
        )
    return answer
