"""As much of the registry protocol as packaging needs: read a base image, push what is missing, name the result."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIMEOUT_SECONDS = 60
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


class RegistryError(Exception):
    """The registry cannot be used; the message says why."""


class Registry:
    """A registry that takes a name and a password.

    :param settings: ``address``, ``user``, ``password`` and ``ca``.
    """

    def __init__(self, settings: dict[str, str]) -> None:
        self.address = settings["address"]
        self._session = requests.Session()
        self._session.trust_env = (
            False  # otherwise REQUESTS_CA_BUNDLE would be believed rather than the given authority
        )
        self._session.verify = settings["ca"]
        self._session.auth = (settings["user"], settings["password"])

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def image(self, repository: str, reference: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the manifest and the configuration of an image.

        :raises RegistryError: when it cannot be read, or is an index of several.
        """
        answer = self._call("GET", repository, f"manifests/{reference}", headers={"Accept": ", ".join(MANIFESTS)})
        manifest = answer.json()
        if "layers" not in manifest:
            raise RegistryError(f"{self.address}/{repository}:{reference} is not an image of one platform.")
        config = self._call("GET", repository, f"blobs/{manifest['config']['digest']}").json()
        return manifest, config

    def mount(self, repository: str, digest: str, source: str) -> None:
        """Make a blob of another repository one of this repository too."""
        if not self._holds(repository, digest):
            self._call("POST", repository, "blobs/uploads/", params={"mount": digest, "from": source}, expected=(201,))

    def push_file(self, repository: str, digest: str, path: Path) -> bool:
        """Push a file as a blob.

        :return: whether it was missing.
        """

        def content() -> Any:
            return path.open("rb") if path.stat().st_size else b""

        return self._push(repository, digest, content)

    def push_bytes(self, repository: str, content: bytes) -> None:
        """Push a document as a blob."""
        self._push(repository, f"sha256:{hashlib.sha256(content).hexdigest()}", lambda: content)

    def name(self, repository: str, tag: str, manifest: bytes) -> str:
        """Push a manifest under a tag, and return the image's digest."""
        headers = {"Content-Type": json.loads(manifest)["mediaType"]}
        self._call("PUT", repository, f"manifests/{tag}", headers=headers, data=manifest, expected=(201,))
        return f"sha256:{hashlib.sha256(manifest).hexdigest()}"

    def _push(self, repository: str, digest: str, content: Callable[[], Any]) -> bool:
        if self._holds(repository, digest):
            return False
        place = self._call("POST", repository, "blobs/uploads/", expected=(202,)).headers["Location"]
        url = place if place.startswith("https://") else f"https://{self.address}{place}"
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._send("PUT", url, params={"digest": digest}, data=content(), headers=headers)
        self._expect(answer, (201,))
        return True

    def _holds(self, repository: str, digest: str) -> bool:
        return self._send("HEAD", f"https://{self.address}/v2/{repository}/blobs/{digest}").status_code == 200

    def _call(
        self, method: str, repository: str, path: str, *, expected: tuple[int, ...] = (200,), **options: Any
    ) -> requests.Response:
        answer = self._send(method, f"https://{self.address}/v2/{repository}/{path}", **options)
        self._expect(answer, expected)
        return answer

    def _send(self, method: str, url: str, **options: Any) -> requests.Response:
        try:
            return self._session.request(method, url, timeout=TIMEOUT_SECONDS, **options)
        except (requests.RequestException, OSError) as error:
            raise RegistryError(f"The registry {self.address} cannot be reached: {error}") from error

    def _expect(self, answer: requests.Response, expected: tuple[int, ...]) -> None:
        if answer.status_code not in expected:
            raise RegistryError(
                f"The registry {self.address} answered {answer.request.method} {answer.url.partition('?')[0]} with "
                f"{answer.status_code}: {answer.text[:300]}"
            )
