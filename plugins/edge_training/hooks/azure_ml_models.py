"""The tags of model versions by which a person sees which of them runs where."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from edge_training.hooks import azure_ml_calls as calls
from edge_training.hooks.azure_ml import AzureMLHook

if TYPE_CHECKING:
    from collections.abc import Sequence


class ModelTagsHook(AzureMLHook):
    """Reads, tags and deletes versions of models.

    :raises ServiceError: by every method, when Azure ML refuses or cannot be asked.
    """

    def move_tag(self, name: str, version: int, tag: str, value: str) -> None:
        """Give a version a tag, and take it from all other versions of the model.

        :param name: the model's name.
        :param version: the version that gets it; nothing is done when there is no such version any more.
        :param tag: the tag's name.
        :param value: its value.
        """

        def move(workspace: Any) -> None:
            for model in _listed(workspace, name):
                old, new = model.tags.get(tag), value if model.version == version else None
                if old == new:
                    continue
                # Taken away first: the SDK adds no tag that is there already.
                if old is not None:
                    model.update_tags_properties(remove_tags=[tag])
                if new is not None:
                    model.update_tags_properties(add_tags={tag: new})

        self._call(f"tag version {version} of model '{name}' with '{tag}'", move)

    def versions(self, name: str) -> list[tuple[int, dict[str, str]]]:
        """Return all versions of a model with their tags, the newest first.

        :param name: the model's name.
        """

        def look(workspace: Any) -> list[tuple[int, dict[str, str]]]:
            from azureml.core import Model

            return sorted(
                ((model.version, dict(model.tags)) for model in Model.list(workspace, name=name, expand=False)),
                reverse=True,
            )

        return self._call(f"list the versions of model '{name}'", look)

    def delete_version(self, name: str, version: int) -> bool:
        """Delete a version of a model, and tell whether it was there.

        :param name: the model's name.
        :param version: the version.
        """
        return self._call(
            f"delete version {version} of model '{name}'", partial(calls.delete_model, name=name, version=version)
        )


def _listed(workspace: Any, name: str) -> Sequence[Any]:
    from azureml.core import Model

    found: Sequence[Any] = Model.list(workspace, name=name, expand=False)
    return found
