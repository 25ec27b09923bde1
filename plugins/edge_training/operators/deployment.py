"""Step 4 of the pattern: the image goes into service where the site says, or an earlier one comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from edge_training.deployment.targets import Candidate, read_targets
from edge_training.exceptions import DeploymentError, EdgeTrainingError
from edge_training.lineage import DEPLOYED_PREFIX
from edge_training.operators.places import Places
from edge_training.operators.serving import recorded_probe
from edge_training.records import ImageReference, ModelVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import Context

    from edge_training.records import Deployment, JsonObject


class _ServingOperator(BaseOperator):
    """What deploying and going back share: the targets, the connections, and that a target's failure does not stop the others.

    :param site: the site's name.
    :param targets: the targets, as the site file has them.
    :param repository: where the site's images are.
    :param require_probe: whether an image without recorded answers is refused.
    :param start_seconds: how long an image may take to be healthy.
    :param azure_ml_conn_id: Airflow connection of the workspace.
    :param container_registry_conn_id: Airflow connection of the registry.
    """

    ui_color = "#ffedd5"

    def __init__(
        self,
        *,
        site: str,
        targets: Sequence[Mapping[str, Any]],
        repository: str,
        require_probe: bool = False,
        start_seconds: float = 60.0,
        azure_ml_conn_id: str = "azure_ml",
        container_registry_conn_id: str = "container_registry",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.targets = [dict(target) for target in targets]
        self.repository = repository
        self.require_probe = require_probe
        self.start_seconds = start_seconds
        self.azure_ml_conn_id = azure_ml_conn_id
        self.container_registry_conn_id = container_registry_conn_id

    def _places(self) -> Places:
        return Places(read_targets(self.targets), self.container_registry_conn_id, self.start_seconds)

    def _probe(self, run_id: str) -> dict[str, Any]:
        return recorded_probe(self.azure_ml_conn_id, run_id, required=self.require_probe, log=self.log)

    def _everywhere(self, names: Sequence[str], do: Callable[[str], Deployment]) -> list[JsonObject]:
        """Do something at each target; raise at the end what went wrong at some."""
        done: list[Deployment] = []
        failures: list[EdgeTrainingError] = []
        for name in names:
            try:
                done.append(do(name))
            except EdgeTrainingError as error:
                self.log.error("Target '%s': %s", name, error)  # noqa: TRY400 - the message says all; the error is raised below
                failures.append(error)
            else:
                self._report(done[-1])
        self._tag(done)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            told = " ".join(str(failure) for failure in failures)
            raise DeploymentError(
                f"{len(failures)} of {len(names)} targets failed: {told}",
                retryable=any(one.retryable for one in failures),
            )
        return [one.to_json() for one in done]

    def _report(self, done: Deployment) -> None:
        self.log.info(
            "Target '%s' (%s, %s): %s %s, model %s version %s, in %.1f s; before: %s",
            done.target,
            done.kind,
            done.where,
            done.decision,
            done.reference,
            done.model,
            done.version,
            done.seconds,
            done.previous or "nothing",
        )

    def _tag(self, done: Sequence[Deployment]) -> None:
        """Show on the model's versions which of them runs where."""
        from edge_training.hooks.azure_ml_models import ModelTagsHook

        hook = ModelTagsHook(self.azure_ml_conn_id)
        for one in done:
            if one.model and one.version.isdecimal():
                hook.move_tag(
                    one.model,
                    int(one.version),
                    f"{DEPLOYED_PREFIX}{self.site}.{one.target}",
                    f"{one.digest} since {one.since}",
                )


class DeployModelOperator(_ServingOperator):
    """Puts a verified image into service at every target of the site; where it serves already, nothing is changed.

    At a host the new image starts beside the old one, must be healthy and answer as recorded, and only then takes the port; otherwise the
    old one stays and the error says why.

    :param image: the :class:`ImageReference` of ``build_and_push_image``.
    :param model: the :class:`ModelVersion` of ``register_model``.
    :returns: a list of :class:`~edge_training.records.Deployment`, one per target.
    :raises DeploymentError: when a target cannot be reached, its port is taken, or the image is not fit to serve there.
    :raises ImageError: when the image is damaged or cannot be pulled.
    """

    template_fields: Sequence[str] = ("image", "model")

    def __init__(self, *, image: Any, model: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image = image
        self.model = model

    def execute(self, context: Context) -> list[JsonObject]:  # noqa: ARG002 - Airflow's signature
        """Deploy to each target, and return what runs where."""
        image, model = ImageReference.from_json(self.image), ModelVersion.from_json(self.model)
        candidate = Candidate(image.repository, image.digest, model.name, str(model.version), model.run_id)
        probe = self._probe(model.run_id)
        with self._places() as places:
            return self._everywhere(places.names, lambda name: places.deploy(name, candidate, probe))


class RollBackOperator(_ServingOperator):
    """Puts an earlier image back into service, the same way as a new one: tried beside what serves, then swapped.

    :param digest: ``sha256:...`` of an image in the site's repository, or ``previous``: at each target what served there before.
    :param target: the only target to go back at; ``""`` for all of the site.
    :returns: a list of :class:`~edge_training.records.Deployment`, one per target.
    :raises DeploymentError: when there is nothing to go back to, or the image is not fit to serve; what serves then stays.
    :raises ImageError: when the image is damaged or not in the registry any more.
    """

    template_fields: Sequence[str] = ("digest", "target")

    def __init__(self, *, digest: str, target: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.digest = digest
        self.target = target

    def execute(self, context: Context) -> list[JsonObject]:  # noqa: ARG002 - Airflow's signature
        """Go back at each target, and return what runs where."""
        with self._places() as places:
            names = [places.named(self.target)] if self.target else places.names
            return self._everywhere(names, lambda name: self._back(places, name))

    def _back(self, places: Places, name: str) -> Deployment:
        candidate = (
            places.earlier(name) if self.digest == "previous" else places.described(self.repository, self.digest)
        )
        self.log.info(
            "Target '%s' goes back to %s (model %s version %s)",
            name,
            candidate.digest,
            candidate.model,
            candidate.version,
        )
        return places.deploy(name, candidate, self._probe(candidate.run_id))
