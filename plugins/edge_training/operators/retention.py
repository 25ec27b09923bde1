"""Removes images and model versions that nobody needs any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.deployment.retention import plan_removal
from edge_training.deployment.targets import read_targets
from edge_training.operators.places import Places

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from edge_training.deployment.retention import Plan
    from edge_training.records import JsonObject


class RemoveOldOperator(BaseOperator):
    """Removes the oldest images and model versions of a site; what is deployed, or can be gone back to, always stays.

    When one target cannot say what it runs, nothing is removed. A dry run only says what would go.

    :param targets: the targets, as the site file has them.
    :param repository: where the site's images are.
    :param model_name: the site's model.
    :param keep_images: how many of the newest images stay.
    :param keep_versions: how many of the newest versions stay.
    :param only_say: whether nothing is removed; ``"True"`` and ``"False"`` are understood, for templates.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param container_registry_conn_id: Airflow connection of the registry.
    :returns: ``{"dry_run", "images", "versions"}``: digests and versions that went, or would go.
    :raises DeploymentError: when a target cannot be asked.
    :raises ImageError: when the registry permits no deletion.
    :raises ServiceError: when the registry or Azure ML refuses or cannot be asked.
    """

    template_fields: Sequence[str] = ("only_say",)
    ui_color = "#f3f4f6"

    def __init__(
        self,
        *,
        targets: Sequence[Mapping[str, Any]],
        repository: str,
        model_name: str,
        keep_images: int,
        keep_versions: int,
        only_say: bool | str = True,
        azure_ml_conn_id: str = "azure_ml",
        container_registry_conn_id: str = "container_registry",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.targets = [dict(target) for target in targets]
        self.repository = repository
        self.model_name = model_name
        self.keep_images = keep_images
        self.keep_versions = keep_versions
        self.only_say = only_say
        self.azure_ml_conn_id = azure_ml_conn_id
        self.container_registry_conn_id = container_registry_conn_id

    def execute(self, context: Context) -> JsonObject:  # noqa: ARG002 - Airflow's signature
        """Find out what may go, say it, and remove it unless this is a dry run."""
        # Whatever is not plainly a no is a dry run.
        dry_run = str(self.only_say).lower() != "false"
        plan = self._plan()
        would = "would go (dry run)" if dry_run else "goes"
        for digest, tags in plan.images.items():
            self.log.info("%s %s@%s (%s)", would, self.repository, digest, ", ".join(tags))
        for version in plan.versions:
            self.log.info("%s model %s:%d", would, self.model_name, version)
        self.log.info("%d images and %d model versions stay", plan.kept_images, plan.kept_versions)
        if not dry_run:
            self._remove(plan)
        return {"dry_run": dry_run, "images": list(plan.images), "versions": list(plan.versions)}

    def _plan(self) -> Plan:
        from edge_training.hooks.azure_ml_models import ModelTagsHook
        from edge_training.hooks.container_registry import ContainerRegistryHook

        with Places(read_targets(self.targets), self.container_registry_conn_id, 0.0) as places:
            deployed = [one for name in places.names for one in places.deployed(name)]
        versions = [version for version, _ in ModelTagsHook(self.azure_ml_conn_id).versions(self.model_name)]
        with ContainerRegistryHook(self.container_registry_conn_id).client() as client:
            tags = {tag: client.find_digest(self.repository, tag) for tag in client.list_tags(self.repository)}
        return plan_removal(
            {tag: digest for tag, digest in tags.items() if digest},
            versions,
            {one.digest for one in deployed},
            {int(one.version) for one in deployed if one.model == self.model_name and one.version.isdecimal()},
            keep_images=self.keep_images,
            keep_versions=self.keep_versions,
        )

    def _remove(self, plan: Plan) -> None:
        from edge_training.hooks.azure_ml_models import ModelTagsHook
        from edge_training.hooks.container_registry import ContainerRegistryHook

        with ContainerRegistryHook(self.container_registry_conn_id).client() as client:
            for digest in [*plan.referrers, *plan.images]:
                client.delete_manifest(self.repository, digest)
        hook = ModelTagsHook(self.azure_ml_conn_id)
        for version in plan.versions:
            hook.delete_version(self.model_name, version)
