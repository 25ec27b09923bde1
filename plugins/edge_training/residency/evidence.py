"""What a cloud service really holds for a run, as it was asked afterwards. Filled by a hook, judged by the audit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class HeldFile:
    """A file that the service holds.

    :param name: its name, as the service has it.
    :param size: bytes, or -1 when it was not fetched.
    :param sha256: hex digest over its bytes, or ``""`` when it was not fetched.
    :param content: its bytes, when the audit has to look into it.
    """

    name: str
    size: int = -1
    sha256: str = ""
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class HeldMetric:
    """One value of a metric.

    :param name: the metric's name.
    :param kind: the service's word for its type; a plain number is ``"azureml.v1.scalar"``.
    :param value: what is stored under each column, usually one number under the metric's own name.
    :param step: its place on the horizontal axis, or ``None``.
    :param value_id: the id that the sender gave the value.
    """

    name: str
    kind: str
    value: Mapping[str, Any]
    step: int | None
    value_id: str


@dataclass(frozen=True)
class HeldModel:
    """A model version that names the run as its origin.

    :param model_id: ``name:version``.
    :param tags: its tags.
    :param properties: its properties.
    """

    model_id: str
    tags: Mapping[str, str]
    properties: Mapping[str, str]


@dataclass(frozen=True)
class Snapshot:
    """The code that the service holds for a run.

    :param snapshot_id: the service's id.
    :param files: its files.
    :param folders: the names of its folders, without a slash at the end.
    """

    snapshot_id: str
    files: tuple[HeldFile, ...]
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """All that the service holds for one run.

    :param run_id: the run's id.
    :param state: the service's word for its state.
    :param texts: the run's free texts by name: display_name, description, warnings and the like; empty ones are left out.
    :param error: code and message of the run's error, or ``("", "")``.
    :param tags: the run's tags.
    :param properties: the run's properties.
    :param arguments: the arguments that the run was submitted with.
    :param variables: the environment variables that it was submitted with.
    :param snapshots: every snapshot that the run names.
    :param artifacts: every file of the run.
    :param metrics: every value of every metric.
    :param children: ids of the runs below it.
    :param models: model versions of the run.
    :param datasets: how many data sets it names as input or output.
    """

    run_id: str
    state: str
    texts: Mapping[str, str] = field(default_factory=dict)
    error: tuple[str, str] = ("", "")
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    snapshots: tuple[Snapshot, ...] = ()
    artifacts: tuple[HeldFile, ...] = ()
    metrics: tuple[HeldMetric, ...] = ()
    children: tuple[str, ...] = ()
    models: tuple[HeldModel, ...] = ()
    datasets: int = 0
