"""What a DAG run has left, asked from outside: the workspace through its SDK, the registry's disk, the VM over SSH; and the verdict."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.system.chaos.stack import ChaosStack

EXPERIMENT = "breast-cancer"
MODEL = "breast-cancer"
REPOSITORY = "models/breast-cancer"
ENDED = {"Completed", "Failed", "Canceled"}
# Grants, and the training data that a run fetches; the empty file that keeps two runs apart may stay.
LIST_LEFT = "find .edge-training -type f ! -name lock 2>/dev/null; true"


@dataclass(frozen=True)
class Evidence:
    """Everything that there is at one moment.

    :param runs: run id → state.
    :param models: ``name:version`` → the id of the run that made it.
    :param images: the digests of all images in the repository, also of those without a tag.
    :param tags: tag → digest.
    :param left: grants and training data that lie on the VM.
    """

    runs: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    tags: dict[str, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()

    def since(self, before: Evidence) -> Evidence:
        """Return what is new; runs that still go on are never old."""
        return Evidence(
            runs={run: state for run, state in self.runs.items() if run not in before.runs or state not in ENDED},
            models={model: run for model, run in self.models.items() if model not in before.models},
            images=self.images - before.images,
            tags={tag: digest for tag, digest in self.tags.items() if before.tags.get(tag) != digest},
            left=tuple(path for path in self.left if path not in before.left),
        )


@dataclass(frozen=True)
class Told:
    """What a DAG run says of itself.

    :param state: ``success``, ``failed``, or what it still was when the harness gave up.
    :param run_id: the training run whose model it registered, or ``""``.
    :param model: ``name:version``, or ``""``.
    :param digest: the image's, or ``""``.
    """

    state: str
    run_id: str = ""
    model: str = ""
    digest: str = ""


class Witness:
    """Gathers evidence.

    :param stack: where to look; all of its services have to run.
    """

    def __init__(self, stack: ChaosStack) -> None:
        self._stack = stack
        self._registry = stack.site_settings.state / "registry/data/docker/registry/v2/repositories" / REPOSITORY

    @cached_property
    def workspace(self) -> Any:
        """The workspace, as a program sees it that knows nothing but the site's variables."""
        warnings.simplefilter("ignore")
        from azureml.core import Workspace
        from azureml.core.authentication import ServicePrincipalAuthentication

        env = self._stack.variables
        login = ServicePrincipalAuthentication(
            env["LOCAL_SITE_TENANT_ID"],
            env["LOCAL_SITE_CLIENT_ID"],
            env["LOCAL_SITE_CLIENT_SECRET"],
            cloud=env["AZUREML_CURRENT_CLOUD"],
        )
        names = ("LOCAL_SITE_SUBSCRIPTION_ID", "LOCAL_SITE_RESOURCE_GROUP", "LOCAL_SITE_WORKSPACE")
        return Workspace(*(env[name] for name in names), auth=login)

    def look(self) -> Evidence:
        """Return what there is now."""
        from azureml.core import Model

        experiments = self.workspace.experiments.values()
        return Evidence(
            runs={run.id: run.status for experiment in experiments for run in experiment.get_runs()},
            models={model.id: model.run_id or "" for model in Model.list(self.workspace, name=MODEL)},
            images=frozenset(link.parent.name for link in self._registry.glob("_manifests/revisions/sha256/*/link")),
            tags={
                link.parents[1].name: link.read_text().removeprefix("sha256:")
                for link in self._registry.glob("_manifests/tags/*/current/link")
            },
            left=tuple(self._stack.site.ssh(LIST_LEFT).stdout.split()),
        )

    def detach(self) -> None:
        """Take the VM out of the workspace."""
        for compute in self.workspace.compute_targets.values():
            compute.detach()


def judge(told: Told, new: Evidence) -> list[str]:
    """Return what must not be, one sentence each.

    :param told: what the DAG run says of itself.
    :param new: what there is more than before it.
    """
    wrong = [f"run {run} is still {state}" for run, state in sorted(new.runs.items()) if state not in ENDED]
    wrong += [f"{path} is left on the VM" for path in new.left]
    completed = sorted(run for run, state in new.runs.items() if state == "Completed")
    for many, found in (("completed runs", completed), ("model versions", new.models), ("images", new.images)):
        if len(found) > 1:
            wrong.append(f"{len(found)} {many} where one is enough: {', '.join(sorted(found))}")
    if told.state == "success":
        wrong += _judge_success(told, new, completed)
    elif told.state == "failed":
        wrong.append("the DAG run failed, though each fault of the schedule is one that can be survived")
    else:
        wrong.append(f"the DAG run is still {told.state}")
    return wrong


def _judge_success(told: Told, new: Evidence, completed: list[str]) -> list[str]:
    digest = told.digest.removeprefix("sha256:")
    version = re.sub(r".*:", "v", told.model)
    checks = {
        f"the DAG run names run {told.run_id}, but those that completed are {completed}": told.run_id in completed,
        f"the DAG run names model {told.model} of run {told.run_id}, but new are {new.models}": new.models.get(
            told.model
        )
        == told.run_id,
        f"the DAG run names image {digest}, but new are {sorted(new.images)}": digest in new.images,
        f"tag {version} is not the image {digest}: {new.tags}": new.tags.get(version) == digest,
    }
    return [sentence for sentence, holds in checks.items() if not holds]
