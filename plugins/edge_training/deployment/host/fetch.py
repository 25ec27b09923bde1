"""Fetches manifests and blobs of a registry by digest; the login lives in memory only."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

from edge_training.deployment.host.errors import HostError
from edge_training.exceptions import ImageError
from edge_training.images.compression import can_unpack_zstd
from edge_training.images.media_types import INDEXES, LAYERS, MANIFESTS, OCI_LAYER_ZSTD, Descriptor

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from pathlib import Path

_CHUNK = 1 << 18
_TRIES = 3
_SECONDS = 30.0
_LARGEST_PAGE = 4 << 20
_PARAMETER = re.compile(r'(\w+)\s*=\s*"([^"]*)"')
_ACCEPT = ", ".join(sorted(MANIFESTS | INDEXES))


class _KeepsTheLogin(urllib.request.HTTPRedirectHandler):
    """Follows redirects, such as to a cloud's blob storage, without handing the login to the other machine."""

    def redirect_request(self, req: urllib.request.Request, *arguments: Any) -> urllib.request.Request | None:
        new = super().redirect_request(req, *arguments)
        if new is not None:
            new.headers.pop("Authorization", None)
            new.unredirected_hdrs.pop("Authorization", None)
        return new


class Registry:
    """A registry to pull from.

    :param order: ``address``, ``user``, ``password``, and ``ca_pem``: certificates to trust, or ``""`` for the host's own.
    """

    def __init__(self, order: dict[str, str]) -> None:
        self.address = order["address"]
        self._user = order["user"]
        self._login = base64.b64encode(f"{order['user']}:{order['password']}".encode()).decode() if self._user else ""
        self._authorization = ""
        context = ssl.create_default_context(cadata=order["ca_pem"] or None)
        # No proxy of the host's environment: a registry on the premises is reached directly.
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _KeepsTheLogin())
        self._opener = urllib.request.build_opener(*handlers)

    def image(self, repository: str, digest: str) -> tuple[dict[str, Any], tuple[Descriptor, ...]]:
        """Return an image's configuration and its layers, the lowest first.

        :param repository: the repository.
        :param digest: of its manifest.
        :raises HostError: when it is not there, damaged, or not an image for one platform.
        """
        name = f"{self.address}/{repository}@{digest}"
        manifest = self._json(f"/v2/{repository}/manifests/{digest}", digest, repository, name)
        try:
            config, layers = _described(manifest, name)
        except ImageError as error:
            raise HostError("image", str(error)) from error
        return self._json(f"/v2/{repository}/blobs/{config.digest}", config.digest, repository, name), layers

    def fetch(self, repository: str, layer: Descriptor, target: Path) -> None:
        """Fetch a layer into a file.

        :param repository: the repository.
        :param layer: the layer.
        :param target: the file.
        :raises HostError: when its bytes are not those of the digest, or it cannot be fetched.
        """
        for attempt in range(_TRIES):
            try:
                return self._fetch_once(repository, layer, target)
            except HostError as error:
                if not error.retryable or attempt + 1 == _TRIES:
                    raise
            time.sleep(0.5 * 2**attempt)
        return None

    def _fetch_once(self, repository: str, layer: Descriptor, target: Path) -> None:
        path, size, seen = f"/v2/{repository}/blobs/{layer.digest}", 0, hashlib.sha256()
        try:
            with self._open(path, repository) as answer, target.open("wb") as file:
                while chunk := answer.read(_CHUNK):
                    size += len(chunk)
                    if size > layer.size:
                        break
                    seen.update(chunk)
                    file.write(chunk)
        except (OSError, ValueError) as error:
            raise self._broken(path, error) from error
        found = "sha256:" + seen.hexdigest()
        if size < layer.size:
            raise HostError(
                "registry", f"Registry {self.address} broke off in the middle of blob {layer.digest}.", retryable=True
            )
        if found != layer.digest:
            raise HostError(
                "image",
                f"Layer {layer.digest} of {self.address}/{repository} came as {found}: it is damaged in the registry or on the way, "
                "and was not unpacked. Push the image anew.",
            )

    def _json(self, path: str, digest: str, repository: str, name: str) -> dict[str, Any]:
        try:
            with self._open(path, repository) as answer:
                body = answer.read(_LARGEST_PAGE + 1)
        except (OSError, ValueError) as error:
            raise self._broken(path, error) from error
        found = "sha256:" + hashlib.sha256(body).hexdigest()
        if found != digest:
            raise HostError(
                "image", f"Registry {self.address} gave {found} for {digest} of image {name}: it is damaged."
            )
        try:
            value = json.loads(body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise HostError("image", f"Image {name} is damaged: {digest} is not a JSON object.")
        return value

    def _open(self, path: str, repository: str) -> HTTPResponse:
        """Open an address, logging in the way the registry asks for."""
        try:
            return self._request(path)
        except urllib.error.HTTPError as error:
            if error.code != 401 or self._authorization:
                raise self._refused(path, error.code) from error
            challenge = error.headers.get("WWW-Authenticate", "")
            error.close()
        self._authorization = self._answer(challenge, repository)
        try:
            return self._request(path)
        except urllib.error.HTTPError as error:
            raise self._refused(path, error.code) from error

    def _request(self, path: str) -> HTTPResponse:
        request = urllib.request.Request(f"https://{self.address}{path}", headers={"Accept": _ACCEPT})
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        answer: HTTPResponse = self._opener.open(request, timeout=_SECONDS)
        return answer

    def _answer(self, challenge: str, repository: str) -> str:
        """Return the authorization that the registry asks for: the login itself, or a token for it."""
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_PARAMETER.findall(rest))
        if scheme.lower() != "bearer":
            return f"Basic {self._login}"
        realm = parameters.get("realm", "")
        if not realm.startswith("https://"):
            raise HostError(
                "registry",
                f"Registry {self.address} asks to log in at '{realm}', which is not https: nothing was sent.",
            )
        query = urllib.parse.urlencode(
            {"service": parameters.get("service", ""), "scope": f"repository:{repository}:pull"}
        )
        request = urllib.request.Request(f"{realm}?{query}")  # noqa: S310 - checked above
        if self._login:
            request.add_unredirected_header("Authorization", f"Basic {self._login}")
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                told = json.loads(answer.read(_LARGEST_PAGE))
            return f"Bearer {told.get('access_token') or told['token']}"
        except urllib.error.HTTPError as error:
            raise self._refused(realm, error.code) from error
        except (OSError, ValueError, KeyError) as error:
            raise self._broken(realm, error) from error

    def _refused(self, path: str, status: int) -> HostError:
        if status in {401, 403}:
            return HostError(
                "registry",
                f"Registry {self.address} refused user '{self._user}' (HTTP {status}): correct the connection, or grant the right to pull.",
            )
        if status == 404:
            return HostError(
                "image", f"Registry {self.address} has no {path}: was it deleted, or never pushed to its end?"
            )
        return HostError(
            "registry",
            f"Registry {self.address} answered HTTP {status} to {path}.",
            retryable=status >= 500 or status == 429,
        )

    def _broken(self, path: str, error: Exception) -> HostError:
        reason = getattr(error, "reason", error)
        untrusted = isinstance(reason, ssl.SSLCertVerificationError)
        advice = "trust its CA through the connection's ca_certificate" if untrusted else "let the host reach it"
        told = (
            f"The host cannot fetch {path} from registry {self.address} ({type(reason).__name__}: {reason}): {advice}."
        )
        return HostError("registry", told, retryable=not untrusted)


def _described(manifest: dict[str, Any], name: str) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    """Return what a manifest names: the configuration and the layers."""
    if manifest.get("mediaType") in INDEXES or "layers" not in manifest:
        raise ImageError(f"{name} is not an image for one platform: name one that is.")
    layers = tuple(Descriptor.from_json(entry, of=name) for entry in manifest["layers"])
    for layer in layers:
        if layer.media_type not in LAYERS:
            raise ImageError(f"Image {name} has a layer of type '{layer.media_type}', which a host cannot unpack.")
        if LAYERS[layer.media_type] == OCI_LAYER_ZSTD and not can_unpack_zstd():
            raise ImageError(
                f"Image {name} has a layer that is packed with zstd, which this host cannot unpack: install its distribution's "
                "package 'zstd' there, or choose 'gzip' as the image's compression in the site's file."
            )
    return Descriptor.from_json(manifest.get("config"), of=name), layers
