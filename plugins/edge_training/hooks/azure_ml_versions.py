"""The versions of a model, with what is written on them after they were registered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_training.hooks import azure_ml_calls as calls
from edge_training.hooks.azure_ml import AzureMLHook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_training.records import ModelVersion


class AzureMLVersionsHook(AzureMLHook):
    """Lists a model's versions, and writes tags on them.

    :param conn_id: see :class:`~edge_training.hooks.azure_ml.AzureMLHook`.
    """

    def versions(self, name: str, tags: Mapping[str, str]) -> list[ModelVersion]:
        """Return the versions of a model that carry all these tags, newest first.

        :param name: the model's name.
        :param tags: tags and their values.
        :raises ServiceError: when Azure ML cannot be asked.
        """
        return self._call(
            f"list the versions of model '{name}'", lambda workspace: calls.find_models(workspace, name, tags)
        )

    def tag_version(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Write tags on a version; the others stay.

        :param version: the version.
        :param tags: tags and their values.
        :raises ServiceError: when Azure ML refuses or cannot be asked.
        """

        def tag(workspace: Any) -> None:
            from azureml.core import Model

            model = Model(workspace, name=version.name, version=version.version, expand=False)
            # Not the SDK's add_tags, which prints to the task's log what the log says better.
            model.update(tags={**(model.tags or {}), **tags})

        self._call(f"write tags on model '{version.model_id}'", tag)
