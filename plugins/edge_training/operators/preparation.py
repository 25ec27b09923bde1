"""Gets ready what all images of a site share, while the model is still being trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.exceptions import DeploymentError
from edge_training.operators.serving import dependencies_layer, registry_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from edge_training.images.compression import Compression
    from edge_training.operators.image import Builder
    from edge_training.records import JsonObject


class PrepareServingHostOperator(BaseOperator):
    """Pushes the layer of the serving dependencies, and has the host where images are tried out fetch and unpack it with the base.

    There, the image's own Python compiles once what each model image imports at its start. So what comes after training only moves the
    model. A host that cannot be reached does not stop the training: the task says so and succeeds, and ``verify_image`` fetches what is
    missing then.

    :param base: the base by digest, as ``resolve_base_image`` returned it.
    :param scripts_folder: the folder of all training projects.
    :param repository: where the site's images go.
    :param builder: as for ``build_and_push_image``; with ``azure_ml`` only the base is fetched.
    :param compression: as for ``build_and_push_image``.
    :param serving_lock: as for ``build_and_push_image``.
    :param cache_dir: as for ``build_and_push_image``.
    :param python: an interpreter on the host.
    :param serving_host_conn_id: Airflow connection of the host.
    :param container_registry_conn_id: Airflow connection of the registry.
    :returns: how many layers the host holds now, how many of them it fetched, how long that took, and how many compiled modules there are.
    :raises ConfigurationError: when the lock or a connection is wrong.
    :raises ImageError: when the base or a package is missing or damaged.
    :raises ServiceError: when the registry does not answer, or refuses the login.
    """

    template_fields: Sequence[str] = ("base", "repository", "serving_host_conn_id")
    ui_color = "#ede9fe"

    def __init__(
        self,
        *,
        base: Any,
        scripts_folder: str,
        repository: str,
        builder: Builder = "compose",
        compression: Compression = "gzip",
        serving_lock: str | None = None,
        cache_dir: str | None = None,
        python: str = "python3",
        serving_host_conn_id: str = "serving_host",
        container_registry_conn_id: str = "container_registry",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base = base
        self.scripts_folder = scripts_folder
        self.repository = repository
        self.builder = builder
        self.compression = compression
        self.serving_lock = serving_lock
        self.cache_dir = cache_dir
        self.python = python
        self.serving_host_conn_id = serving_host_conn_id
        self.container_registry_conn_id = container_registry_conn_id

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - Airflow's signature
        """Push what is shared, and have it fetched."""
        from edge_training.hooks.serving_host import ServingHostHook

        repository, digest = self._push()
        order = {
            "registry": registry_order(self.container_registry_conn_id),
            "repository": repository,
            "digest": digest,
            # The shared image's command imports what the server does; a base of the organisation's own has any.
            "compile": self.builder == "compose",
        }
        with ServingHostHook(self.serving_host_conn_id, self.python) as host:
            try:
                found = host.order("pull", order, f"{repository}@{digest}")
            except DeploymentError as error:
                self.log.warning("The host is not prepared, verify_image has to do it: %s", error)
                return {"layers": 0, "fetched_layers": 0, "compiled": 0, "seconds": 0.0}
            self.log.info(
                "Host %s holds %d layers of %s@%s, %d of them fetched in %.1f s, and %d compiled modules",
                host.label,
                found["layers"],
                repository,
                digest,
                found["fetched_layers"],
                found["pull_seconds"],
                found["compiled"],
            )
            if found["not_compiled"]:
                self.log.warning("Images will start about a second later than they could: %s", found["not_compiled"])
        return {
            "layers": found["layers"],
            "fetched_layers": found["fetched_layers"],
            "compiled": found["compiled"],
            "seconds": round(found["pull_seconds"], 3),
        }

    def _push(self) -> tuple[str, str]:
        """Return repository and digest of an image with all layers that the site's images share."""
        from edge_training.hooks.container_registry import ContainerRegistryHook
        from edge_training.images.base import resolve_base
        from edge_training.images.model_image import shared_image
        from edge_training.images.publish import RegistryPublisher

        with ContainerRegistryHook(self.container_registry_conn_id).client() as client:
            base = resolve_base(client, self.base, None)
            if self.builder != "compose":
                return base.repository, base.digest
            layer = dependencies_layer(
                self.scripts_folder, self.serving_lock, self.cache_dir, base.platform, self.compression, self.log
            )
            image, tag = shared_image(base, layer)
            published = RegistryPublisher(client, self.repository).publish(image, tag)
        return self.repository, published.reference.digest
