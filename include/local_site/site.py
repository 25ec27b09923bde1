"""The services of the site together: started side by side, looked at, and ended."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from local_site import azure_ml_service, base_image, blobs, certificates, files, processes, registry, training_env, vm
from local_site.credentials import Credentials
from local_site.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from local_site.settings import Settings

NAMES = ("blob", "vm", "registry", "azure-ml")


@dataclass(frozen=True)
class Part:
    """One service of the site.

    :param service: Its process.
    :param prepare: Makes what the process needs before it is started.
    :param fill: Puts into the running service what it has to hold; does nothing the second time.
    """

    service: processes.Service
    prepare: Callable[[], None]
    fill: Callable[[], None]


@dataclass(frozen=True)
class State:
    """One line of what `status` tells."""

    name: str
    title: str
    address: str
    pid: int | None


def select(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the services that are meant, in the order in which they are listed.

    :param names: Some of NAMES; all of them by default.
    :raises SettingError: One of them is unknown.
    """
    unknown = [name for name in names or () if name not in NAMES]
    if unknown:
        raise SettingError(f"There is no service {', '.join(unknown)}. The services are: {', '.join(NAMES)}.")
    return tuple(name for name in NAMES if not names or name in names)


def up(settings: Settings, names: Sequence[str] | None = None, report: Callable[[str], None] = print) -> list[State]:
    """Start what is not running yet, and fill it.

    :param settings: The settings of the site.
    :param names: The services to start; all by default.
    :param report: Is told, line by line, what a person should know.
    :return: The state of every service that was asked for.
    :raises LocalSiteError: A port is busy, or a service cannot be started; what this call started is ended again.
    """
    wanted = select(names)
    with _locked(settings):
        credentials = Credentials.ensure(settings.state)
        if certificates.ensure(settings.tls):
            _stop(settings, NAMES)
        parts = _parts(wanted, settings, credentials, report)
        # What runs with an older port, certificate or environment is replaced.
        _stop(settings, [part.service.name for part in parts if not _up_to_date(part.service, settings)])
        new = [part.service for part in parts if processes.running(part.service.name, settings.pids) is None]
        for service in new:
            processes.check_port_is_free(service.name, service.port or 0, service.port_setting)
        _start(parts, [service.name for service in new], settings)
    return status(settings, wanted)


def down(settings: Settings) -> list[str]:
    """End every service of the site.

    :param settings: The settings of the site.
    :return: The names of those that were running.
    """
    with _locked(settings):
        return _stop(settings, NAMES)


def status(settings: Settings, names: Sequence[str] | None = None) -> list[State]:
    """Say what runs.

    :param settings: The settings of the site.
    :param names: The services to look at; all by default.
    """
    about = {
        "blob": ("Stack Hub blob storage", settings.blob_endpoint),
        "vm": ("Stack Hub training VM", f"{settings.vm_account}@127.0.0.1:{settings.ssh_port}"),
        "registry": ("container registry", settings.registry),
        "azure-ml": ("Azure ML", settings.azure_ml_url),
    }
    return [State(name, *about[name], processes.running(name, settings.pids)) for name in select(names)]


def prepare(settings: Settings, names: Sequence[str] | None = None, report: Callable[[str], None] = print) -> None:
    """Make what is slow to make and shared by all sites: the base image and the training environment.

    :param settings: The settings of the site.
    :param names: `base-image`, `training-env` or both, which is the default.
    :param report: Is told what is finished.
    :raises LocalSiteError: One of them cannot be made.
    """
    jobs: dict[str, Callable[[], None]] = {
        "base-image": lambda: report(f"base image: {base_image.ensure(settings).folder}"),
        "training-env": lambda: report(f"training environment: {training_env.ensure(settings)}"),
    }
    unknown = [name for name in names or () if name not in jobs]
    if unknown:
        raise SettingError(f"Cannot prepare {', '.join(unknown)}. What can be prepared: {', '.join(jobs)}.")
    _side_by_side([job for name, job in jobs.items() if not names or name in names])


def _parts(
    names: Sequence[str], settings: Settings, credentials: Credentials, report: Callable[[str], None]
) -> list[Part]:
    build = {
        "blob": lambda: _blob(settings, credentials),
        "vm": lambda: _vm(settings, credentials, report),
        "registry": lambda: _registry(settings, credentials, report),
        "azure-ml": lambda: _azure_ml(settings, credentials),
    }
    return [build[name]() for name in names]


def _blob(settings: Settings, credentials: Credentials) -> Part:
    return Part(
        service=blobs.service(settings, credentials),
        prepare=lambda: (settings.state / "blob").mkdir(exist_ok=True),
        fill=lambda: blobs.fill(settings, credentials),
    )


def _vm(settings: Settings, credentials: Credentials, report: Callable[[str], None]) -> Part:
    machine = vm.Machine.possible(settings)
    environment = training_env.path(settings)

    def make() -> None:
        if machine.remark:
            report(f"Note: {machine.remark}.")
        if not environment.exists():
            report("Making the training environment of the VM, once: about half a minute ...")
        training_env.ensure(settings)
        vm.prepare(settings, credentials, machine, environment)

    return Part(vm.service(settings, machine, environment), prepare=make, fill=_nothing)


def _registry(settings: Settings, credentials: Credentials, report: Callable[[str], None]) -> Part:
    def fill() -> None:
        if not base_image.made(settings):
            report("Making the Python base image of the registry, once: about a minute ...")
        registry.fill(settings, credentials, base_image.ensure(settings))

    return Part(registry.service(settings), prepare=lambda: registry.prepare(settings, credentials), fill=fill)


def _azure_ml(settings: Settings, credentials: Credentials) -> Part:
    return Part(
        service=azure_ml_service.service(settings),
        prepare=lambda: azure_ml_service.prepare(settings, credentials),
        fill=_nothing,
    )


def _nothing() -> None:
    """Fill a service that needs nothing put into it."""


def _up_to_date(service: processes.Service, settings: Settings) -> bool:
    return processes.running_as_defined(service, settings.pids) or not processes.running(service.name, settings.pids)


def _start(parts: Sequence[Part], new: Sequence[str], settings: Settings) -> None:
    abandoned = threading.Event()

    def abandon() -> None:
        abandoned.set()
        # Whoever waits for one of these to become ready learns that it is gone.
        _stop(settings, new)

    try:
        _side_by_side([partial(_bring_up, part, settings, abandoned) for part in parts], abandon)
    except BaseException:
        _stop(settings, new)
        raise


def _bring_up(part: Part, settings: Settings, abandoned: threading.Event) -> None:
    if processes.running(part.service.name, settings.pids) is None:
        part.prepare()
        if abandoned.is_set():
            return
        processes.start(part.service, settings.pids)
    processes.wait_ready(part.service, settings.pids)
    part.fill()


def _stop(settings: Settings, names: Sequence[str]) -> list[str]:
    # Azure ML goes first: while it ends its runs it still needs the VM.
    first = [name for name in names if name == "azure-ml" and processes.stop(name, settings.pids)]
    others = [name for name in names if name != "azure-ml"]
    with ThreadPoolExecutor(len(NAMES)) as pool:
        stopped = list(pool.map(lambda name: processes.stop(name, settings.pids), others))
    return first + [name for name, was_running in zip(others, stopped, strict=True) if was_running]


def _side_by_side(jobs: Sequence[Callable[[], None]], abandon: Callable[[], None] = lambda: None) -> None:
    """Do all jobs at once, wait for all of them, and raise the first error.

    :param jobs: The jobs.
    :param abandon: Is called when a person interrupts, so that the jobs come to an end; they are waited for even then.
    """
    pool = ThreadPoolExecutor(max(1, len(jobs)))
    try:
        running = [pool.submit(job) for job in jobs]
        wait(running)
    except BaseException:
        abandon()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    for job in running:
        job.result()


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    settings.state.mkdir(parents=True, exist_ok=True)
    with files.locked(settings.state / "lock"):
        yield
