"""What a site is: one YAML file per place whose data may not leave it.

A site file is read when the DAGs are parsed, so this module imports little, and it validates everything that can be validated
without asking a service. A mistake is a :class:`~edge_training.exceptions.ConfigurationError` that names the file, the field, what
was found and what is expected; Airflow shows it as an import error.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
)

from edge_training.exceptions import ConfigurationError
from edge_training.site_deployment import Deployment, Retention

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

# The one in C, wherever PyYAML was built with it, reads a site file in a tenth of the time, and each task reads all of them.
_FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DURATION_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
DURATION_FORM = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")

# pydantic's error types in a person's words; what is not here is said in pydantic's own.
EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "byte_size": 'a size such as "500 MiB"',
    "byte_size_unit": 'a size such as "500 MiB"',
    "dict_type": "fields with values",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than_equal": "{le} or less",
    "model_type": "fields with values",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_too_short": "text of at least {min_length} characters",
    "string_type": "text",
    "tuple_type": "a list",
    "union_tag_invalid": "one of {expected_tags}",
    "union_tag_not_found": "fields with a {discriminator}",
}


def parse_duration(value: object) -> object:
    """Read ``"90s"``, ``"30m"``, ``"1h30m"`` or ``"45d"`` as a time span; leave what is one already.

    :param value: what stands in the file.
    :raises ValueError: for anything else; pydantic turns it into an error of the field.
    """
    if isinstance(value, timedelta):
        return value
    text = value.replace(" ", "") if isinstance(value, str) else ""
    if not DURATION_FORM.fullmatch(text):
        raise ValueError('expected a duration such as "30m", "1h30m" or "45d"')
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    return sum((timedelta(**{DURATION_UNITS[unit]: float(number)}) for number, unit in parts), timedelta())


def parse_schedule(value: str | None) -> str | None:
    """Check a cron expression while the file's name is still known.

    :param value: five fields, a preset such as ``"@daily"``, or none.
    :raises ValueError: when it is neither.
    """
    # Kept out of the module's imports: most sites of a parse are read with no schedule to check.
    from croniter import croniter

    if value is not None and not croniter.is_valid(value):
        raise ValueError('a cron expression such as "0 2 * * *" or "@daily"')
    return value


def parse_pattern(value: str) -> str:
    """Check a regular expression while the file's name is still known.

    :param value: the pattern.
    :raises ValueError: when it is none.
    """
    try:
        re.compile(value)
    except re.error:
        raise ValueError("a regular expression for a whole name") from None
    return value


Schedule = Annotated[str | None, AfterValidator(parse_schedule)]
Duration = Annotated[timedelta, BeforeValidator(parse_duration), Field(gt=timedelta())]
Size = Annotated[ByteSize, Field(ge=0)]
ConnectionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-]{1,200}$")]
SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
# Azure ML's own rules, so that a bad name is found here and not after an hour of training.
ComputeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,14}[A-Za-z0-9]$")]
AssetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,254}$")]
ContainerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:-?[a-z0-9]){2,62}$")]
RepositoryName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:[._/-][a-z0-9]+)*$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(parse_pattern)]
ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]


class Section(BaseModel):
    """What all parts of a site file share: fields that nobody declared are mistakes, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    """Which blobs the site trains on, and when they are good enough.

    :param connection: Airflow connection of the Stack Hub's blob storage.
    :param container: blob container.
    :param prefix: what the training blobs' names begin with, usually a folder ending in ``/``.
    :param suffix: what the training blobs' names end with.
    :param schema_blob: blob of the same container with the expected columns (Frictionless Table Schema).
    :param minimum_blobs: fewest blobs to train on.
    :param minimum_size: fewest bytes to train on, all blobs together.
    :param maximum_size: most bytes to train on; none when absent.
    :param maximum_age: how old the newest blob may be; any age when absent.
    :param grant_lifetime: how long a run may read the blobs, from the moment that it is submitted; covers waiting and training.
    """

    connection: ConnectionId = "stack_hub_blob"
    container: ContainerName
    prefix: str = ""
    suffix: str = ".csv"
    schema_blob: str = Field(min_length=1)
    minimum_blobs: PositiveInt = 1
    minimum_size: Size = ByteSize(1)
    maximum_size: Size | None = None
    maximum_age: Duration | None = None
    grant_lifetime: Duration = timedelta(hours=12)


class Needs(Section):
    """What the training VM must have free before a run is sent to it.

    :param cpus: processors that the training account may use.
    :param memory: memory of the VM.
    :param disk: free space in the account's home.
    :param gpus: NVIDIA GPUs.
    :param docker: whether Docker must be there.
    """

    cpus: PositiveInt = 1
    memory: Size = ByteSize(0)
    disk: Size = ByteSize(0)
    gpus: int = Field(default=0, ge=0)
    docker: bool = False


class Compute(Section):
    """The training VM, and its name in Azure ML.

    :param connection: Airflow connection of the VM (SSH, with its host key pinned).
    :param name: compute target in the Azure ML workspace; 2 to 16 letters, digits and dashes.
    :param address: what Azure ML reaches the VM by, when it differs from the connection's host.
    :param port: SSH port for Azure ML, when it differs from the connection's.
    :param resource_id: ARM resource id, to attach the VM by it instead of by address.
    :param python: interpreter on the VM that has the project's requirements; ``~`` is the training account's home.
    :param needs: what the VM must have.
    """

    connection: ConnectionId = "training_vm"
    name: ComputeName
    address: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    resource_id: str | None = None
    python: str = "python3"
    needs: Needs = Needs()


class Training(Section):
    """What is trained.

    :param project: folder of ``include/training_scripts`` with ``train.py``, and ``score.py`` unless any ONNX model's will do.
    :param experiment: experiment in Azure ML.
    :param parameters: handed to the script; numbers, words or truth values.
    :param maximum_duration: how long a run may take before it is cancelled.
    :param poll_interval: how often a waiting task asks for the run's state.
    """

    project: ParameterName
    experiment: AssetName
    parameters: dict[ParameterName, str | int | float | bool] = {}
    maximum_duration: Duration = timedelta(hours=6)
    poll_interval: Duration = timedelta(seconds=30)


class Model(Section):
    """The model that a run leaves, and when it is good enough to be registered.

    :param name: model in Azure ML.
    :param file: the file that the training script saves.
    :param minimum_metrics: metric name → the least value with which a model is registered.
    """

    name: AssetName
    file: FileName = "model.onnx"
    minimum_metrics: dict[str, float] = {}


class Image(Section):
    """The serving image.

    :param connection: Airflow connection of the container registry.
    :param repository: where the image goes.
    :param base: a Python image in the same registry, ``repository@sha256:...`` (in production) or ``repository:tag``.
    :param platform: ``os/architecture`` of the machines that will serve.
    :param builder: ``compose`` makes the image here, layer by layer; ``azure_ml`` has Azure ML make it (``Model.package``), in the
        registry of its workspace, which the connection must then be to.
    :param compression: how the serving dependencies are packed: ``gzip``, ``zstd`` (smaller, for engines since 2021) or ``none``.
    """

    connection: ConnectionId = "container_registry"
    repository: RepositoryName
    base: str = Field(pattern=r"^[a-z0-9][a-z0-9._/-]*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})$")
    platform: str = Field(default="linux/amd64", pattern=r"^[a-z0-9]+/[a-z0-9]+$")
    builder: Literal["compose", "azure_ml"] = "compose"
    compression: Literal["gzip", "zstd", "none"] = "gzip"


class Residency(Section):
    """What may leave, and how it is proven what did.

    :param key: Airflow connection of the key that signs receipts; a new key needs a new container.
    :param container: blob container for receipts, of its own.
    :param connection: Airflow connection of the blob storage for receipts, when it is not the data's; it must be allowed to write.
    :param delete_foreign_artifacts: whether files that nobody let out are deleted from the run in Azure ML; else they stay as evidence.
    :param platform_files: patterns (regular expressions for whole names) of further files that this site's Azure ML writes for each run.
    :param policy: settings of the gate and the sandbox that differ from their defaults; ``include/training_scripts/edge_run/policy.py``
        has all of them. They travel with the code, as ``policy.json``, and are part of its digest.
    """

    key: ConnectionId = "residency_key"
    container: ContainerName = "residency-receipts"
    connection: ConnectionId | None = None
    delete_foreign_artifacts: bool = False
    platform_files: tuple[Pattern, ...] = ()
    policy: dict[ParameterName, str | int | bool | tuple[FileName, ...]] = {}


class SiteConfig(Section):
    """One site: its data, its VM, what is trained there, and where model and image go.

    :param name: the site's name, the end of its DAG's id and the value of the ``site`` tag.
    :param description: one sentence for the DAG's page.
    :param schedule: cron expression in UTC, or none to train on demand only.
    :param owner: who answers for the site.
    :param retries: how often a task is tried again after an error that may pass.
    :param azure_ml: Airflow connection of the Azure ML workspace.
    :param residency: what may leave, and how it is proven what did.
    :param deployment: where images go; ``plugins/edge_training/site_deployment.py`` has its fields.
    :param retention: how many images and model versions stay when old ones are removed.
    """

    name: SiteName
    description: str = ""
    schedule: Schedule = None
    owner: str = "edge-training"
    retries: int = Field(default=2, ge=0, le=20)
    azure_ml: ConnectionId = "azure_ml"
    data: Data
    compute: Compute
    training: Training
    model: Model
    image: Image
    residency: Residency = Residency()
    deployment: Deployment = Deployment()
    retention: Retention = Retention()

    @property
    def dag_id(self) -> str:
        """Return the id of the site's DAG."""
        return f"edge_training_{self.name}"


def load_site(path: Path) -> SiteConfig:
    """Read one site file.

    :param path: the YAML file; its name without ``.yaml`` must be the site's name.
    :raises ConfigurationError: with every mistake that the file has, one line each.
    """
    site = _validate(path, _read_yaml(path))
    if site.name != path.stem:
        raise ConfigurationError(
            f"{path.name}: name: found {site.name!r}, expected {path.stem!r}, the file's own name: the DAG's id is made of it."
        )
    return site


def load_sites(folder: Path) -> tuple[list[SiteConfig], list[ConfigurationError]]:
    """Read all site files of a folder, in the order of their names.

    :param folder: usually ``include/sites``.
    :return: the sites without a mistake, and the mistakes of each of the other files.
    """
    sites: list[SiteConfig] = []
    mistakes: list[ConfigurationError] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            sites.append(load_site(path))
        except ConfigurationError as error:
            mistakes.append(error)
    return sites, mistakes


def check_sites(folder: Path) -> None:
    """Make sure that no site file of a folder has a mistake.

    :param folder: usually ``include/sites``.
    :raises ConfigurationError: with the mistakes of all files, one line each.
    """
    _, mistakes = load_sites(folder)
    if mistakes:
        raise ConfigurationError("\n".join(map(str, mistakes)))


def _read_yaml(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
        try:
            return yaml.load(text, _FAST_LOADER)  # noqa: S506 - both are safe loaders
        except yaml.YAMLError:
            # The one in Python says better what is wrong, and where.
            return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigurationError(f"{path.name}{where}: not valid YAML: {problem}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path.name}: cannot be read: {error}.") from error


def _validate(path: Path, content: object) -> SiteConfig:
    try:
        return SiteConfig.model_validate(content)
    except ValidationError as error:
        lines = [f"{path.name}: {_describe(detail)}" for detail in error.errors(include_url=False)]
        raise ConfigurationError("\n".join(lines)) from None


def _describe(detail: ErrorDetails) -> str:
    """Say which field is wrong, what was found there, and what is expected."""
    field = ".".join(str(part) for part in detail["loc"]) or "the file"
    if detail["type"] == "missing":
        return f"{field}: found nothing, expected a value."
    if detail["type"] == "extra_forbidden":
        return f"{field}: unknown field, expected one of {', '.join(_known_fields(detail['loc'][:-1]))}."
    return f"{field}: found {_shown(detail['input'])}, expected {_expected(detail)}."


def _expected(detail: ErrorDetails) -> str:
    template = EXPECTED.get(detail["type"])
    if template is not None:
        return template.format(**detail.get("ctx", {}))
    return detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("expected ")


def _known_fields(location: tuple[int | str, ...]) -> list[str]:
    section: Any = SiteConfig
    for part in location:
        section = _part_of(section, part)
    return sorted(section.model_fields)


def _part_of(annotation: Any, part: int | str) -> Any:
    """Return the type of a field, of a list's elements, or of the one of several kinds of sections that the file names."""
    if isinstance(part, int):
        return get_args(annotation)[0]
    if hasattr(annotation, "model_fields"):
        return annotation.model_fields[part].annotation
    kinds = get_args(get_args(annotation)[0])
    return next(kind for kind in kinds if part in get_args(kind.model_fields["kind"].annotation))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
