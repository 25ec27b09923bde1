"""Decides whether a machine is fit to train on, and whether it must be attached. Pure: imports neither Airflow nor Azure.

Every check returns its problems as sentences and raises nothing, so that one task tells all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edge_training.blob_checks import size_text
from edge_training.exceptions import ComputeError, ConfigurationError
from edge_training.records import Record

if TYPE_CHECKING:
    from edge_training.records import AttachedCompute

MAXIMUM_CLOCK_SKEW_SECONDS = 300.0
# States of a compute target that change by themselves.
CHANGING_STATES = frozenset({"Creating", "Updating", "Resizing", "Deleting"})
_FAILED_STATES = frozenset({"Failed", "Canceled"})
_PASSWORD_LENGTH, _PASSWORD_CLASSES = 14, 3

AttachDecision = Literal["unchanged", "attach", "reattach"]


@dataclass(frozen=True)
class VMMeasurement(Record):
    """A training VM as it is.

    :param cpus: processors that the account may use.
    :param memory_bytes: memory that the account may use.
    :param disk_free_bytes: free space where runs work.
    :param gpus: number of GPUs that ``nvidia-smi -L`` lists.
    :param docker: version of the Docker daemon that the account may use, or ``""``.
    :param bwrap: path of bubblewrap, or ``""``.
    :param bwrap_error: why it cannot make a sandbox, or ``""`` when it can.
    :param other_sandbox: what a sandbox can be made of without bubblewrap: ``"namespaces"``, ``"seccomp"`` or ``""``.
    :param python: absolute path of the interpreter that training uses.
    :param python_version: its version, or ``""`` when it cannot be started.
    :param home: the account's home directory.
    :param is_root: whether the account is root.
    :param clock_skew_seconds: how far the VM's clock is ahead of ours; negative when it is behind.
    """

    cpus: int
    memory_bytes: int
    disk_free_bytes: int
    gpus: int
    docker: str
    bwrap: str
    bwrap_error: str
    other_sandbox: str
    python: str
    python_version: str
    home: str
    is_root: bool
    clock_skew_seconds: float


@dataclass(frozen=True)
class VMNeeds(Record):
    """What a site's training needs of the VM; zero or false where it does not care.

    :param cpus: processors.
    :param memory_bytes: memory.
    :param disk_bytes: free space where runs work.
    :param gpus: GPUs.
    :param docker: whether a Docker daemon must answer.
    """

    cpus: int = 1
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: int = 0
    docker: bool = False

    @classmethod
    def of(cls, value: VMNeeds | Mapping[str, Any] | None) -> VMNeeds:
        """Return the needs that an operator was given.

        :param value: the needs, an object with some of their fields, or ``None`` for the defaults.
        :raises ConfigurationError: when a field is unknown, of another type, or negative.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping | None):
            raise ConfigurationError(f"The needs of a VM must be an object, found {type(value).__name__}.")
        defaults = dataclasses.asdict(cls())
        for name, found in (value or {}).items():
            if name not in defaults:
                raise ConfigurationError(f"A VM has no need '{name}'; known are {', '.join(defaults)}.")
            if type(found) is not type(defaults[name]) or found < 0:
                raise ConfigurationError(f"The need '{name}' of a VM must be {_kind(defaults[name])}, found {found!r}.")
        return cls(**(value or {}))


def _kind(default: object) -> str:
    return "true or false" if isinstance(default, bool) else "a whole number, 0 or more"


def parse_measurement(output: str, before: float, after: float) -> VMMeasurement:
    """Read what the measuring script printed.

    :param output: lines of ``name=value``.
    :param before: our clock before the script started, in seconds since 1970.
    :param after: our clock when it had ended.
    :raises ComputeError: when a value is missing: the VM's shell is not a POSIX shell, or lacks its basic tools.
    """
    values = dict(line.partition("=")[::2] for line in output.splitlines() if "=" in line)
    try:
        return VMMeasurement(
            cpus=int(values["cpus"]),
            memory_bytes=int(values["memory_kib"]) * 1024,
            disk_free_bytes=int(values["disk_free_kib"]) * 1024,
            gpus=int(values["gpus"]),
            docker=values["docker"],
            bwrap=values["bwrap"],
            bwrap_error=values["bwrap_error"],
            other_sandbox=values["other_sandbox"],
            python=values["python"],
            python_version=values["python_version"],
            home=values["home"],
            is_root=values["uid"] == "0",
            clock_skew_seconds=clock_skew(float(values["time"]), before, after),
        )
    except (KeyError, ValueError) as error:
        raise ComputeError(
            f"The training VM could not be measured: no usable value for {error}. It must be a Linux machine with a POSIX shell "
            "and coreutils."
        ) from None


def clock_skew(remote: float, before: float, after: float) -> float:
    """Return by how much a remote clock is certainly ahead (positive) or behind (negative), in seconds.

    :param remote: what it showed, in seconds since 1970.
    :param before: our clock before it was read.
    :param after: our clock after it was read.
    """
    if remote > after:
        return remote - after
    # The remote clock is read in whole seconds, so it may show up to one second less than it is.
    return min(remote + 1 - before, 0.0)


def unfit_reasons(found: VMMeasurement, needs: VMNeeds) -> list[str]:
    """Return every reason why a VM cannot train.

    :param found: the VM as it is.
    :param needs: what the site needs.
    """
    reasons = [
        f"{name}: found {text(has)}, needed {text(needed)}"
        for name, has, needed, text in (
            ("processors", found.cpus, needs.cpus, str),
            ("memory", found.memory_bytes, needs.memory_bytes, size_text),
            ("free disk", found.disk_free_bytes, needs.disk_bytes, size_text),
            ("GPUs", found.gpus, needs.gpus, str),
        )
        if has < needed
    ]
    if needs.docker and not found.docker:
        reasons.append(
            "Docker: found no daemon that the account may use, needed one (apt-get install docker.io, group docker)"
        )
    return reasons + _broken_tools(found)


def _broken_tools(found: VMMeasurement) -> list[str]:
    reasons = []
    if not found.python_version:
        reasons.append(
            f"training interpreter: '{found.python}' is missing or does not start: create the training environment there"
        )
    # The runner finds out itself which kind works, and refuses to start a script without one.
    if not found.bwrap and not found.other_sandbox:
        reasons.append("sandbox: bubblewrap is missing (apt-get install bubblewrap)")
    elif found.bwrap_error and not found.other_sandbox:
        reasons.append(
            f"sandbox: {found.bwrap} cannot make one ({found.bwrap_error}): allow unprivileged user namespaces for the account"
        )
    if abs(found.clock_skew_seconds) > MAXIMUM_CLOCK_SKEW_SECONDS:
        side = "ahead" if found.clock_skew_seconds > 0 else "behind"
        reasons.append(
            f"clock: {abs(found.clock_skew_seconds):.0f} s {side} of ours, at most {MAXIMUM_CLOCK_SKEW_SECONDS:.0f} s is allowed "
            "since permissions and tokens carry times: set up time synchronisation (apt-get install chrony)"
        )
    return reasons


def password_weaknesses(user: str, password: str) -> list[str]:
    """Return why a password is too weak for an account that is reachable over SSH.

    :param user: the account's name.
    :param password: the password.
    """
    weaknesses = []
    if len(password) < _PASSWORD_LENGTH:
        weaknesses.append(f"it has fewer than {_PASSWORD_LENGTH} characters")
    kinds = (str.islower, str.isupper, str.isdigit, lambda one: not one.isalnum())
    if sum(any(kind(one) for one in password) for kind in kinds) < _PASSWORD_CLASSES:
        weaknesses.append(
            f"it mixes fewer than {_PASSWORD_CLASSES} of lower case, upper case, digits and other characters"
        )
    if user and user.lower() in password.lower():
        weaknesses.append("it contains the user's name")
    return weaknesses


@dataclass(frozen=True)
class WantedCompute:
    """How a VM is to be attached.

    :param address: what Azure ML reaches it by; not looked at when there is a resource id.
    :param port: SSH port.
    :param resource_id: its ARM resource id, or ``""``.
    """

    address: str
    port: int
    resource_id: str = ""


def decide_attach(found: AttachedCompute | None, wanted: WantedCompute) -> AttachDecision:
    """Tell what to do with a compute target whose state no longer changes by itself.

    :param found: what the workspace has under the name, or ``None``.
    :param wanted: how the VM is to be attached.
    """
    if found is None:
        return "attach"
    if found.provisioning_state in _FAILED_STATES or found.errors or differences(found, wanted):
        return "reattach"
    return "unchanged"


def differences(found: AttachedCompute, wanted: WantedCompute) -> list[str]:
    """Return what is attached otherwise than wanted, for the log.

    :param found: what the workspace has.
    :param wanted: how the VM is to be attached.
    """
    pairs = [("port", str(found.port), str(wanted.port)), ("resource id", found.resource_id, wanted.resource_id)]
    if not wanted.resource_id:
        pairs.append(("address", found.address, wanted.address))
    return [f"{name} is '{has}', wanted '{want}'" for name, has, want in pairs if has.lower() != want.lower()]
