from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_training.exceptions import ComputeError, ConfigurationError
from edge_training.records import AttachedCompute
from edge_training.vm_checks import (
    VMMeasurement,
    VMNeeds,
    WantedCompute,
    clock_skew,
    decide_attach,
    differences,
    parse_measurement,
    password_weaknesses,
    unfit_reasons,
)

GIB = 1 << 30
FIT = VMMeasurement(
    cpus=4,
    memory_bytes=16 * GIB,
    disk_free_bytes=50 * GIB,
    gpus=1,
    docker="26.1.0",
    bwrap="/usr/bin/bwrap",
    bwrap_error="",
    other_sandbox="",
    python="/home/edge-vm/training-env/bin/python",
    python_version="3.11.2",
    home="/home/edge-vm",
    is_root=False,
    clock_skew_seconds=0.0,
)
NEEDS = VMNeeds(cpus=4, memory_bytes=16 * GIB, disk_bytes=50 * GIB, gpus=1, docker=True)
OUTPUT = """time=1000
home=/home/edge-vm
uid=998
cpus=2
memory_kib=1024
disk_free_kib=2048
gpus=0
docker=
bwrap=/usr/bin/bwrap
bwrap_error=a=b
other_sandbox=seccomp
python=/home/edge-vm/env/bin/python
python_version=3.11.2
"""
ATTACHED = AttachedCompute("edge-vm", "10.0.0.4", 22, "", "Succeeded")
WANTED = WantedCompute("10.0.0.4", 22)


def test_a_vm_that_has_just_what_is_needed_is_fit() -> None:
    assert unfit_reasons(FIT, NEEDS) == []


@pytest.mark.parametrize(("bwrap", "error"), [("", ""), ("/usr/bin/bwrap", "No permissions")])
def test_a_vm_without_bubblewrap_is_fit_when_a_sandbox_can_be_made_otherwise(bwrap: str, error: str) -> None:
    assert unfit_reasons(replace(FIT, bwrap=bwrap, bwrap_error=error, other_sandbox="namespaces"), NEEDS) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cpus": 2}, "processors: found 2, needed 4"),
        ({"memory_bytes": 8 * GIB}, "memory: found 8.0 GiB, needed 16.0 GiB"),
        ({"disk_free_bytes": 1 << 20}, "free disk: found 1.0 MiB, needed 50.0 GiB"),
        ({"gpus": 0}, "GPUs: found 0, needed 1"),
        ({"docker": ""}, "Docker: found no daemon"),
        ({"python_version": ""}, "'/home/edge-vm/training-env/bin/python' is missing or does not start"),
        ({"bwrap": ""}, "apt-get install bubblewrap"),
        ({"bwrap_error": "No permissions"}, "cannot make one (No permissions)"),
        ({"clock_skew_seconds": 301.0}, "clock: 301 s ahead of ours"),
        ({"clock_skew_seconds": -4000.0}, "clock: 4000 s behind of ours"),
    ],
)
def test_each_shortfall_is_told_with_what_was_found(change: dict[str, Any], reason: str) -> None:
    (found,) = unfit_reasons(replace(FIT, **change), NEEDS)
    assert reason in found


def test_all_shortfalls_are_told_together() -> None:
    poor = replace(FIT, cpus=1, memory_bytes=1, disk_free_bytes=1, gpus=0, docker="", bwrap="", python_version="")
    assert len(unfit_reasons(poor, NEEDS)) == 7


def test_five_minutes_of_clock_skew_are_tolerated() -> None:
    assert unfit_reasons(replace(FIT, clock_skew_seconds=-300.0), NEEDS) == []


def test_needs_are_read_from_a_site_with_defaults() -> None:
    assert VMNeeds.of(None) == VMNeeds()
    assert VMNeeds.of({"gpus": 2}) == VMNeeds(gpus=2)
    assert VMNeeds.of(NEEDS) is NEEDS


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"gpu": 1}, "no need 'gpu'; known are cpus, memory_bytes"),
        ({"cpus": "4"}, "'cpus' of a VM must be a whole number, 0 or more, found '4'"),
        ({"cpus": True}, "'cpus' of a VM must be a whole number"),
        ({"cpus": -1}, "found -1"),
        ({"docker": 1}, "'docker' of a VM must be true or false"),
        ("4 cpus", "must be an object, found str"),
    ],
)
def test_wrong_needs_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        VMNeeds.of(value)


def test_a_measurement_is_read_from_the_scripts_output() -> None:
    found = parse_measurement(OUTPUT, 999.5, 1001.0)
    assert (found.cpus, found.memory_bytes, found.disk_free_bytes) == (2, 1 << 20, 2 << 20)
    assert (found.bwrap_error, found.docker, found.is_root, found.clock_skew_seconds) == ("a=b", "", False, 0.0)


@pytest.mark.parametrize(("line", "named"), [("cpus=2\n", "cpus"), ("memory_kib=1024\n", "memory_kib")])
def test_a_measurement_that_lacks_a_value_is_refused(line: str, named: str) -> None:
    with pytest.raises(ComputeError, match=f"could not be measured: no usable value for '{named}'"):
        parse_measurement(OUTPUT.replace(line, ""), 999.5, 1001.0)


def test_a_measurement_with_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(ComputeError, match="could not be measured"):
        parse_measurement(OUTPUT.replace("cpus=2", "cpus="), 999.5, 1001.0)


@pytest.mark.parametrize(
    ("remote", "skew"),
    [(1000, 0.0), (1010, 0.0), (999, -0.5), (900, -99.5), (1100, 90.0)],
    ids=["within", "at the end", "the second before", "behind", "ahead"],
)
def test_a_clock_is_off_only_by_what_is_certain(remote: float, skew: float) -> None:
    assert clock_skew(remote, 1000.5, 1010.0) == skew


def test_a_strong_password_is_accepted() -> None:
    assert password_weaknesses("edge-vm", "correct Horse 7 battery") == []


@pytest.mark.parametrize(
    ("password", "weakness"),
    [
        ("Sh0rt-enough!", "fewer than 14 characters"),
        ("onlylowercase1234", "fewer than 3 of"),
        ("Long1-EDGE-VM-password", "contains the user's name"),
    ],
)
def test_a_weak_password_is_refused_with_the_reason(password: str, weakness: str) -> None:
    (found,) = password_weaknesses("edge-vm", password)
    assert weakness in found


@pytest.mark.parametrize("state", ["Succeeded", "Unknown"])
def test_an_attached_vm_is_left_alone(state: str) -> None:
    assert decide_attach(replace(ATTACHED, provisioning_state=state), WANTED) == "unchanged"


def test_a_vm_that_is_not_attached_is_attached() -> None:
    assert decide_attach(None, WANTED) == "attach"


@pytest.mark.parametrize(
    "found",
    [
        replace(ATTACHED, address="10.0.0.5"),
        replace(ATTACHED, port=2222),
        replace(ATTACHED, resource_id="/subscriptions/s/vm"),
        replace(ATTACHED, provisioning_state="Failed"),
        replace(ATTACHED, provisioning_state="Canceled"),
        replace(ATTACHED, errors=("host key changed",)),
    ],
    ids=["address", "port", "resource id", "failed", "canceled", "errors"],
)
def test_a_vm_that_differs_or_failed_is_attached_again(found: AttachedCompute) -> None:
    assert decide_attach(found, WANTED) == "reattach"


def test_of_a_vm_attached_by_resource_id_the_address_does_not_count() -> None:
    found = replace(ATTACHED, address="10.9.9.9", resource_id="/Subscriptions/S/vm")
    assert decide_attach(found, WantedCompute("10.0.0.4", 22, "/subscriptions/s/vm")) == "unchanged"
    assert differences(found, WantedCompute("", 22, "/other")) == [
        "resource id is '/Subscriptions/S/vm', wanted '/other'"
    ]


def test_host_names_are_compared_without_regard_to_case() -> None:
    assert decide_attach(replace(ATTACHED, address="VM.Site"), WantedCompute("vm.site", 22)) == "unchanged"
