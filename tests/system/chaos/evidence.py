"""What a DAG run has left, seen from outside: the stand-in's and the registry's disks, the VM over SSH; and the verdict.

Nothing is asked over HTTP: a service may be down at this moment for another lane's sake, and a fault that waits for a call of the
pipeline shall not be met by the one who judges.
"""

from __future__ import annotations

import http.client
import json
import re
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_training.grants import grant_name
from edge_training.site_deployment import Host

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.chaos.lanes import Lane
    from tests.system.chaos.stack import ChaosStack

ENDED = {"Completed", "Failed", "Canceled"}
# Until a run that was cancelled has ended, and until the VM lets somebody in again.
SETTLE_SECONDS = 20.0
# The tag of what a site's images have in common, which is no model's.
SHARED = "serving-*"
PAUSE_SECONDS = 0.5
DATABASE_SECONDS = 30.0
# All grants; and the files of training runs that live no more: those that do hold the lock of their folder.
LIST_LEFT = """
cd .edge-training 2>/dev/null || exit 0
ls grants 2>/dev/null
for folder in work/run-*; do
  [ -e "$folder/lock" ] && flock -n "$folder/lock" true && find "$folder" -type f ! -name lock
done
true
"""


class WitnessError(Exception):
    """What has to be looked at cannot be."""


@dataclass(frozen=True)
class Evidence:
    """Everything that there is of a lane at one moment.

    :param runs: run id → state.
    :param models: ``name:version`` → the id of the run that made it.
    :param images: the digests of all models' images in the repository, also of those without a tag.
    :param tags: tag → digest.
    :param left: the DAG run's grant and training data of runs that are over, as far as they lie on the VM.
    :param serving: the digest of the image that is in service, ``""`` when none is, ``None`` when the lane deploys none.
    """

    runs: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    tags: dict[str, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    serving: str | None = None

    def since(self, before: Evidence) -> Evidence:
        """Return what is new; runs that still go on are never old."""
        return Evidence(
            runs={run: state for run, state in self.runs.items() if run not in before.runs or state not in ENDED},
            models={model: run for model, run in self.models.items() if model not in before.models},
            images=self.images - before.images,
            tags={tag: digest for tag, digest in self.tags.items() if before.tags.get(tag) != digest},
            left=self.left,
            serving=self.serving,
        )

    @property
    def unsettled(self) -> bool:
        """Whether something may still go away by itself in a moment."""
        return bool(self.left) or any(state not in ENDED for state in self.runs.values())


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
    """Gathers evidence of one lane.

    :param stack: where to look.
    :param lane: the lane.
    """

    def __init__(self, stack: ChaosStack, lane: Lane) -> None:
        self._stack = stack
        self._site = lane.site
        self._dag_id = lane.dag_id
        self.database = stack.site_settings.azure_ml / "state.sqlite3"
        self._blobs = stack.site_settings.state / "registry/data/docker/registry/v2/blobs/sha256"
        self._registry = self._blobs.parents[1] / "repositories" / self._site.image.repository

    def look(self, dag_run_id: str = "") -> Evidence:
        """Return what there is, after waiting a little for what is about to go away.

        :param dag_run_id: the DAG run that has just ended; without one, nobody's grants are looked for.
        :raises WitnessError: when the VM lets nobody in.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            found = self._look(dag_run_id)
            if not found.unsettled or time.monotonic() > deadline:
                return found
            time.sleep(PAUSE_SECONDS)

    def detach(self) -> None:
        """Take the VM out of the workspace."""
        self._query("delete from computes where name = ?", self._site.compute.name)

    def _look(self, dag_run_id: str) -> Evidence:
        runs = self._query(
            "select run_id, status from runs join experiments using (experiment_id) where experiments.name = ?",
            self._site.training.experiment,
        )
        models = self._query("select model_id, run_id from models where name = ?", self._site.model.name)
        return Evidence(
            runs=dict(runs),
            models={model: run or "" for model, run in models},
            images=frozenset(
                link.parent.name
                for link in self._registry.glob("_manifests/revisions/sha256/*/link")
                if self._is_image(link.parent.name)
            ).difference(self._tags(SHARED).values()),
            tags=self._tags("v*"),
            left=self._left(dag_run_id),
            serving=self._serving(),
        )

    def _tags(self, pattern: str) -> dict[str, str]:
        return {
            link.parents[1].name: link.read_text().removeprefix("sha256:")
            for link in self._registry.glob(f"_manifests/tags/{pattern}/current/link")
        }

    def _is_image(self, digest: str) -> bool:
        """Tell an image from what refers to one, such as its list of parts."""
        manifest: dict[str, Any] = json.loads(self._data(digest).read_text())
        return "layers" in manifest and "subject" not in manifest

    def _data(self, digest: str) -> Path:
        return self._blobs / digest[:2] / digest / "data"

    def _left(self, dag_run_id: str) -> tuple[str, ...]:
        mine = grant_name(self._dag_id, dag_run_id)
        # Other lanes' DAG runs go on, and have grants of their own.
        return tuple(path for path in self._on_vm(LIST_LEFT).split() if "/" in path or path == mine)

    def _serving(self) -> str | None:
        """Return what is in service by the host's own record, as far as it really answers."""
        target = next((target for target in self._site.deployment.targets if isinstance(target, Host)), None)
        if target is None:
            return None
        state = json.loads(
            self._on_vm(f"cat .edge-training/serving/d/{target.name}/state.json 2>/dev/null || echo '{{}}'")
        )
        if not state.get("active"):
            return ""
        with closing(http.client.HTTPConnection("127.0.0.1", target.port or 0, timeout=SETTLE_SECONDS)) as connection:
            try:
                connection.request("GET", "/")
                healthy = connection.getresponse().status == http.client.OK
            except (OSError, http.client.HTTPException):
                healthy = False
        return str(state["active"]["digest"]).removeprefix("sha256:") if healthy else ""

    def _on_vm(self, command: str) -> str:
        """Return what a command prints on the VM.

        :raises WitnessError: when nobody is let in for long.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        while (done := self._stack.site.ssh(command)).returncode:
            if time.monotonic() > deadline:
                raise WitnessError(f"The VM lets nobody in, so nobody can say what is there: {done.stderr}")
            time.sleep(PAUSE_SECONDS)
        return done.stdout

    def _query(self, statement: str, value: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database, timeout=DATABASE_SECONDS)) as connection, connection:
            return connection.execute(statement, (value,)).fetchall()


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
        f"the DAG run names image {digest}, but in service is {new.serving or 'none'}": new.serving in {digest, None},
        f"the DAG run names run {told.run_id}, but those that completed are {completed}": told.run_id in completed,
        f"the DAG run names model {told.model} of run {told.run_id}, but new are {new.models}": new.models.get(
            told.model
        )
        == told.run_id,
        f"the DAG run names image {digest}, but new are {sorted(new.images)}": digest in new.images,
        f"tag {version} is not the image {digest}: {new.tags}": new.tags.get(version) == digest,
    }
    return [sentence for sentence, holds in checks.items() if not holds]
