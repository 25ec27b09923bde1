"""The targets of a site, each with the few things that can be done there."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edge_training.deployment.kubernetes import manifest
from edge_training.deployment.notes import note, read_notes, write_whole
from edge_training.deployment.targets import AppServiceTarget, Candidate, HostTarget, KubernetesTarget, LayoutTarget
from edge_training.exceptions import ConfigurationError, DeploymentError, ImageError
from edge_training.operators.serving import registry_order
from edge_training.records import Deployment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from edge_training.deployment.targets import Target
    from edge_training.hooks.serving_host import ServingHostHook
    from edge_training.images.registry import RegistryClient

LABEL_PREFIX = "edge-training."


class Places:
    """The targets of a site; use it in a ``with`` statement.

    :param targets: the targets.
    :param registry_conn_id: Airflow connection of the registry.
    :param start_seconds: how long an image may take to be healthy.
    """

    def __init__(self, targets: Sequence[Target], registry_conn_id: str, start_seconds: float) -> None:
        self._targets = {target.name: target for target in targets}
        self._registry_conn_id = registry_conn_id
        self._start_seconds = start_seconds
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def names(self) -> list[str]:
        """Return the targets' names."""
        return list(self._targets)

    def named(self, name: str) -> str:
        """Return a target's name when it is one.

        :param name: the name.
        :raises ConfigurationError: when the site has no such target.
        """
        if name not in self._targets:
            raise ConfigurationError(f"The site has no target '{name}'; it has {', '.join(self._targets) or 'none'}.")
        return name

    def deploy(self, name: str, candidate: Candidate, probe: Mapping[str, Any]) -> Deployment:
        """Put an image into service at a target.

        :param name: the target.
        :param candidate: the image.
        :param probe: what to compare its answers with.
        :raises DeploymentError: when that does not work; what served there still does.
        :raises ImageError: when the image is missing or damaged.
        """
        target, begin = self._targets[name], time.monotonic()
        if isinstance(target, HostTarget):
            where, previous, unchanged = self._to_host(target, candidate, probe)
        elif isinstance(target, LayoutTarget):
            where, previous, unchanged = self._to_layout(target, candidate)
        elif isinstance(target, KubernetesTarget):
            where, previous, unchanged = self._to_kubernetes(target, candidate)
        else:
            where, previous, unchanged = self._to_app_service(target, candidate)
        kind = {
            HostTarget: "host",
            LayoutTarget: "layout",
            KubernetesTarget: "kubernetes",
            AppServiceTarget: "app_service",
        }
        with self._registry() as client:
            registry = client.registry
        return Deployment(
            target=name,
            kind=kind[type(target)],
            where=where,
            reference=f"{registry}/{candidate.repository}@{candidate.digest}",
            digest=candidate.digest,
            model=candidate.model,
            version=candidate.version,
            previous=previous,
            decision="unchanged" if unchanged else "deployed",
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - begin, 2),
        )

    def earlier(self, name: str) -> Candidate:
        """Return what served at a target before what serves there now.

        :param name: the target.
        :raises DeploymentError: when nothing did.
        """
        found = self.deployed(name)
        if len(found) < 2:
            now = found[0].digest if found else "now"
            raise DeploymentError(
                f"Nothing served at target '{name}' before {now}: name the digest of an image to go back to."
            )
        return found[1]

    def deployed(self, name: str) -> list[Candidate]:
        """Return what serves at a target, and then what served there before, the newest first.

        :param name: the target.
        :raises DeploymentError: when the target cannot be asked.
        """
        target = self._targets[name]
        if isinstance(target, HostTarget):
            state = self._host(target).order("status", {"name": name}, "of any digest")["state"]
            noted = [state.get("active"), *reversed(state.get("earlier", ()))]
            return [Candidate.noted(one["digest"], one["about"]) for one in noted if one]
        if isinstance(target, AppServiceTarget):
            return self._set_in_app_service(target)
        return list(read_notes(Path(target.folder), name))

    def described(self, repository: str, digest: str) -> Candidate:
        """Return an image of the registry with what its labels say about it.

        :param repository: the repository.
        :param digest: of its manifest.
        :raises ImageError: when it is not in the registry.
        """
        from edge_training.images.compose import load_json
        from edge_training.images.media_types import Descriptor

        with self._registry() as client:
            found = client.find_manifest(repository, digest)
            if found is None:
                raise ImageError(
                    f"Image {client.registry}/{repository}@{digest} is not in the registry: it cannot be brought back."
                )
            manifest_content = load_json(found.body, f"The manifest of image {repository}@{digest}")
            config = Descriptor.from_json(manifest_content.get("config"), of=digest)
            body = b"".join(client.read_blob(repository, config))
        run = load_json(body, f"The configuration of image {repository}@{digest}").get("config") or {}
        labels = run.get("Labels") or {}
        known = {"model": "model", "version": "model_version", "run_id": "run_id"}
        return Candidate(
            repository, digest, **{name: str(labels.get(LABEL_PREFIX + label, "")) for name, label in known.items()}
        )

    # The kinds of targets ---------------------------------------------------------------------------------------

    def _to_host(self, target: HostTarget, candidate: Candidate, probe: Mapping[str, Any]) -> tuple[str, str, bool]:
        host = self._host(target)
        port = target.port or host.serving_port
        order = {
            "name": target.name,
            "address": target.address,
            "port": port,
            "registry": registry_order(self._registry_conn_id),
            "repository": candidate.repository,
            "digest": candidate.digest,
            "probe": probe,
            "about": candidate.about,
            "seconds": self._start_seconds,
            "keep": target.keep,
        }
        found = host.order("deploy", order, f"{candidate.repository}@{candidate.digest}")
        return f"http://{target.address}:{port}/score", found["previous"], found["unchanged"]

    def _to_layout(self, target: LayoutTarget, candidate: Candidate) -> tuple[str, str, bool]:
        from edge_training.deployment.layout import copy_image

        folder = Path(target.folder)
        before = read_notes(folder, target.name)
        with self._registry() as client:
            copy_image(client, candidate.repository, candidate.digest, folder, target.name)
        return self._noted(folder, target.name, str(folder), candidate, before)

    def _to_kubernetes(self, target: KubernetesTarget, candidate: Candidate) -> tuple[str, str, bool]:
        from edge_training.images.model_image import PORT

        folder = Path(target.folder)
        before = read_notes(folder, target.name)
        with self._registry() as client:
            if client.find_manifest(candidate.repository, candidate.digest) is None:
                raise ImageError(
                    f"Image {candidate.repository}@{candidate.digest} is not in the registry: no manifest was written."
                )
            reference = f"{client.registry}/{candidate.repository}@{candidate.digest}"
        path = folder / f"{target.name}.yaml"
        write_whole(path, manifest(target, candidate, reference, PORT))
        return self._noted(folder, target.name, str(path), candidate, before)

    def _to_app_service(self, target: AppServiceTarget, candidate: Candidate) -> tuple[str, str, bool]:
        from edge_training.hooks.resource_manager import ResourceManagerHook

        hook = ResourceManagerHook(target.connection)
        with self._registry() as client:
            reference = f"{client.registry}/{candidate.repository}@{candidate.digest}"
            if client.find_manifest(candidate.repository, candidate.digest) is None:
                raise ImageError(f"Image {reference} is not in the registry: the web app was not touched.")
        before = hook.image_of(target.resource_id)
        if before != reference:
            hook.set_image(target.resource_id, reference, before)
        return target.resource_id, hook.image_before(target.resource_id).rpartition("@")[2], before == reference

    def _noted(
        self, folder: Path, name: str, where: str, candidate: Candidate, before: Sequence[Candidate]
    ) -> tuple[str, str, bool]:
        unchanged = bool(before) and before[0].digest == candidate.digest
        note(folder, name, candidate, before)
        others = [one.digest for one in before if one.digest != candidate.digest]
        return where, others[0] if others else "", unchanged

    def _set_in_app_service(self, target: AppServiceTarget) -> list[Candidate]:
        from edge_training.hooks.resource_manager import ResourceManagerHook

        hook = ResourceManagerHook(target.connection)
        found = [hook.image_of(target.resource_id), hook.image_before(target.resource_id)]
        with self._registry() as client:
            ours = [one.removeprefix(f"{client.registry}/") for one in found if one.startswith(f"{client.registry}/")]
        return [self.described(*one.split("@", 1)) for one in ours if "@sha256:" in one]

    def _host(self, target: HostTarget) -> ServingHostHook:
        from edge_training.hooks.serving_host import ServingHostHook

        return self._open.enter_context(ServingHostHook(target.connection, target.python))

    def _registry(self) -> RegistryClient:
        from edge_training.hooks.container_registry import ContainerRegistryHook

        return ContainerRegistryHook(self._registry_conn_id).client()
