"""Buttons on a task in Airflow's UI: the run in Azure ML Studio, the model, the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from airflow.sdk.bases.xcom import BaseXCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

RETURNED = "return_value"


class RecordLink(BaseOperatorLink):
    """A link that follows from what a task has returned, or that the task showed before its end.

    Airflow asks for it in the task's own process at the task's end, and keeps it in XCom. A task that is deferred has no such end yet:
    it calls :meth:`show`.
    """

    def address(self, operator: BaseOperator, returned: dict[str, Any]) -> str:
        """Return where to look, or ``""``.

        :param operator: the task, with its templates rendered.
        :param returned: what it returned.
        """
        raise NotImplementedError

    def show(self, context: Context, address: str) -> None:
        """Show the link from now on.

        :param context: the task's context.
        :param address: where to look.
        """
        context["ti"].xcom_push(key=self.xcom_key, value=address)

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return where to look; ``""`` when that is not known.

        :param operator: the task.
        :param ti_key: the task instance.
        """
        returned = _xcom(ti_key, RETURNED)
        address = self.address(operator, returned) if isinstance(returned, dict) else ""
        return address or str(_xcom(ti_key, self.xcom_key) or "")


class RunLink(RecordLink):
    """The run's page in Azure ML Studio."""

    @property
    def name(self) -> str:
        """The button's text."""
        return "Run in Azure ML Studio"

    def address(self, operator: BaseOperator, returned: dict[str, Any]) -> str:  # noqa: ARG002 - the interface
        """Return the page that the run's record names.

        :param operator: not used.
        :param returned: a ``RunHandle`` or a ``RunResult``.
        """
        return str(returned.get("portal_url") or "")


class ModelLink(RecordLink):
    """The page of a model version in Azure ML Studio."""

    @property
    def name(self) -> str:
        """The button's text."""
        return "Model in Azure ML Studio"

    def address(self, operator: BaseOperator, returned: dict[str, Any]) -> str:
        """Return the model's page, which is beside that of the run that made it.

        :param operator: a task with a ``RunResult`` as its ``result``.
        :param returned: a ``ModelVersion``.
        """
        result = getattr(operator, "result", None)
        run_page = str(result.get("portal_url") or "") if isinstance(result, dict) else ""
        page, _, workspace = run_page.partition("?")
        studio, found, _ = page.rpartition("/runs/")
        model_id = returned.get("model_id")
        return f"{studio}/model/{quote(str(model_id), safe=':')}/details?{workspace}" if found and model_id else ""


class ImageLink(RecordLink):
    """An image's manifest in its registry."""

    @property
    def name(self) -> str:
        """The button's text."""
        return "Image in the registry"

    def address(self, operator: BaseOperator, returned: dict[str, Any]) -> str:  # noqa: ARG002 - the interface
        """Return the manifest's address by digest, which every registry has; it asks for the registry's login.

        :param operator: not used.
        :param returned: an ``ImageReference``.
        """
        registry, repository, digest = (str(returned.get(key) or "") for key in ("registry", "repository", "digest"))
        return f"https://{registry}/v2/{repository}/manifests/{digest}" if registry and repository and digest else ""


def _xcom(ti_key: Any, key: str) -> Any:
    # A task that was not mapped has no index here, and -1 in Airflow's database.
    index = -1 if ti_key.map_index is None else ti_key.map_index
    return BaseXCom.get_one(
        key=key, dag_id=ti_key.dag_id, task_id=ti_key.task_id, run_id=ti_key.run_id, map_index=index
    )
