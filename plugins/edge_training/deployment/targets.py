"""Where a site's images go, as its file says, and what is to go there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_training.exceptions import ConfigurationError
from edge_training.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Candidate(Record):
    """An image that is to go into service.

    :param repository: the repository in the site's registry.
    :param digest: of its manifest.
    :param model: the model's name, or ``""`` when nobody knows.
    :param version: the model's version, or ``""``.
    :param run_id: the run that trained it and left its probe, or ``""``.
    """

    repository: str
    digest: str
    model: str = ""
    version: str = ""
    run_id: str = ""

    @property
    def about(self) -> dict[str, str]:
        """Return what is noted beside it where it serves, so that it can be brought back from there."""
        return {"repository": self.repository, "model": self.model, "version": self.version, "run_id": self.run_id}

    @classmethod
    def noted(cls, digest: str, about: Mapping[str, str]) -> Candidate:
        """Make it of what was noted.

        :param digest: of its manifest.
        :param about: what :attr:`about` was.
        """
        known = {name: str(about.get(name, "")) for name in ("repository", "model", "version", "run_id")}
        return cls(digest=digest, **known)


@dataclass(frozen=True)
class HostTarget(Record):
    """A machine that serves the model itself.

    :param name: the target's name.
    :param connection: Airflow connection of the machine.
    :param address: what the port is opened on there.
    :param port: the port, or ``None`` for the one that the connection names.
    :param keep: how many earlier images stay there to go back to.
    :param python: an interpreter there.
    """

    name: str
    connection: str
    address: str = "127.0.0.1"
    port: int | None = None
    keep: int = 2
    python: str = "python3"


@dataclass(frozen=True)
class LayoutTarget(Record):
    """A folder in the OCI image layout, to be carried to where no registry can be reached.

    :param name: the target's name.
    :param folder: the folder, on the worker.
    """

    name: str
    folder: str


@dataclass(frozen=True)
class KubernetesTarget(Record):
    """A manifest that somebody, or something, applies to a cluster.

    :param name: the target's name, and that of the objects.
    :param folder: where ``<name>.yaml`` is written, on the worker.
    :param namespace: the cluster's namespace.
    :param replicas: how many pods.
    :param port: the service's port.
    :param memory: memory of a pod, in Kubernetes' words.
    :param cpu: processor share of a pod, in Kubernetes' words.
    """

    name: str
    folder: str
    namespace: str = "default"
    replicas: int = 2
    port: int = 80
    memory: str = "512Mi"
    cpu: str = "250m"


@dataclass(frozen=True)
class AppServiceTarget(Record):
    """A web app for containers in App Service, on Azure Stack Hub or in Azure.

    :param name: the target's name.
    :param connection: Airflow connection of the resource manager.
    :param resource_id: ARM resource id of the web app.
    """

    name: str
    connection: str
    resource_id: str


Target = HostTarget | LayoutTarget | KubernetesTarget | AppServiceTarget
KINDS: dict[str, type[Target]] = {
    "host": HostTarget,
    "layout": LayoutTarget,
    "kubernetes": KubernetesTarget,
    "app_service": AppServiceTarget,
}


def read_targets(values: Iterable[Mapping[str, Any]]) -> tuple[Target, ...]:
    """Read targets as the site file has them.

    :param values: each with its ``kind``.
    :raises ConfigurationError: when one is not a target.
    """
    found = []
    for value in values:
        kind = KINDS.get(str(value.get("kind")))
        if kind is None:
            raise ConfigurationError(f"There is no kind of target '{value.get('kind')}'; known are {', '.join(KINDS)}.")
        found.append(kind.from_json({name: item for name, item in value.items() if name != "kind"}))
    return tuple(found)
