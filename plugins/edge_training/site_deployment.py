"""The part of a site file that says where images go, and how many stay."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

# A part of paths on the target, and of the names of a cluster's objects.
TargetName = Annotated[str, StringConstraints(pattern=r"^[a-z](?:-?[a-z0-9]){0,29}$")]
ConnectionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-]{1,200}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Folder = Annotated[str, StringConstraints(min_length=1, pattern=r"^/")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Host(_Section):
    """A machine that serves the model itself: reached over SSH, with bubblewrap, podman or docker, and Python 3.11.

    :param name: the target's name; one machine may have several.
    :param connection: Airflow connection of the machine.
    :param address: what the port is opened on there.
    :param port: the port; that of the connection's extra ``serving_port`` when absent.
    :param keep: how many earlier images stay there to go back to.
    :param python: an interpreter there.
    """

    kind: Literal["host"]
    name: TargetName
    connection: ConnectionId = "serving_host"
    address: str = "127.0.0.1"
    port: Port | None = None
    keep: PositiveInt = 2
    python: str = "python3"


class Layout(_Section):
    """A folder in the OCI image layout, to be carried to where no registry can be reached.

    :param name: the target's name, by which the image is found in the folder.
    :param folder: the folder, on the worker.
    """

    kind: Literal["layout"]
    name: TargetName
    folder: Folder


class Kubernetes(_Section):
    """A manifest that somebody, or something, applies to a cluster.

    :param name: the target's name, and that of the objects.
    :param folder: where ``<name>.yaml`` is written, on the worker.
    :param namespace: the cluster's namespace.
    :param replicas: how many pods.
    :param port: the service's port.
    :param memory: memory of a pod, in Kubernetes' words.
    :param cpu: processor share of a pod, in Kubernetes' words.
    """

    kind: Literal["kubernetes"]
    name: TargetName
    folder: Folder
    namespace: TargetName = "default"
    replicas: PositiveInt = 2
    port: Port = 80
    memory: str = Field(default="512Mi", pattern=r"^[0-9]+(?:\.[0-9]+)?(?:[EPTGM]i?|[Kk]i?)?$")
    cpu: str = Field(default="250m", pattern=r"^[0-9]+(?:\.[0-9]+)?m?$")


class AppService(_Section):
    """A web app for containers in App Service, on Azure Stack Hub or in Azure.

    :param name: the target's name.
    :param connection: Airflow connection of the resource manager.
    :param resource_id: ARM resource id of the web app.
    """

    kind: Literal["app_service"]
    name: TargetName
    connection: ConnectionId = "resource_manager"
    resource_id: str = Field(
        pattern=r"^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Web/sites/[^/]+$"
    )


Target = Annotated[Host | Layout | Kubernetes | AppService, Field(discriminator="kind")]


class Deployment(_Section):
    """Where images go.

    :param targets: where to; with none, an image is tried out on the training VM and deployed nowhere.
    :param require_probe: whether a model whose run left no recorded answers is refused.
    :param start_seconds: how long an image may take to be healthy.
    :param timed_requests: how many requests the latency is measured with.
    """

    targets: tuple[Target, ...] = ()
    require_probe: bool = False
    start_seconds: PositiveFloat = 60.0
    timed_requests: PositiveInt = 50

    @model_validator(mode="after")
    def _names_differ(self) -> Deployment:
        names = [target.name for target in self.targets]
        if twins := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"targets with different names ({', '.join(twins)} occurs twice)")
        return self

    @property
    def host(self) -> Host | None:
        """Return the machine on which images are tried out: the first that will serve them, if one does."""
        return next((target for target in self.targets if isinstance(target, Host)), None)


class Retention(_Section):
    """How much stays when old images and model versions are removed; what is deployed always does.

    :param images: how many images of the site's repository, the newest.
    :param versions: how many versions of the site's model, the newest.
    """

    images: PositiveInt = 10
    versions: PositiveInt = 10
