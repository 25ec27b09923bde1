"""How each fault is brought about, and undone."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from demo.errors import DemoError
from tests.system.chaos.calls import BLOB, CALLS, DETACHED, NEW_CODE
from tests.system.chaos.plan import KILL
from tests.system.chaos.proxy import Wish

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_site.process_table import Process
    from tests.system.chaos.keeper import Keeper
    from tests.system.chaos.lanes import Lane
    from tests.system.chaos.plan import Fault
    from tests.system.chaos.stack import ChaosStack

AZURE_ML = "azure-ml"
SERVICES = {
    "scheduler": "airflow-scheduler",
    "triggerer": "airflow-triggerer",
    "dag-processor": "airflow-dag-processor",
    "api-server": "airflow-api-server",
    "azure-ml": "azure-ml",
    "registry": "registry",
    "blob": "blob",
}
TASK_TITLE = "airflow worker -- "
EXECUTOR_TITLE = "airflow worker -- LocalExecutor"
TIMEOUT_SECONDS = 10.0
UNSAVED_SECONDS = 7.0


class NotNowError(Exception):
    """What was to be hit is not there at this moment; it may come."""


class Strikes:
    """Brings faults about.

    :param stack: what suffers them.
    :param keeper: starts again what was killed.
    """

    def __init__(self, stack: ChaosStack, keeper: Keeper) -> None:
        self._stack = stack
        self._keeper = keeper
        self._wishes: dict[int, Wish] = {}

    def strike(self, fault: Fault) -> None:
        """Bring a fault about now; it passes by itself.

        :param fault: what goes wrong.
        :raises NotNowError: when there is nothing to hit at this moment.
        """
        if fault.kind != KILL:
            self._let_fail(fault)
        elif fault.target in {"task", "worker"}:
            self._kill_task(with_supervisor=fault.target == "worker")
        elif fault.target == "sshd":
            self._keeper.later(fault.down, self._cut_off_logins())
        else:
            # Azurite forgets what it acknowledged some seconds before it is killed, which Azure's own storage does not.
            if fault.target == BLOB and self._stack.proxies[BLOB].seconds_since_write < UNSAVED_SECONDS:
                raise NotNowError("the blob storage has not saved everything yet")
            self._keeper.kill(SERVICES[fault.target], fault.down)

    def met(self, fault: Fault) -> bool:
        """Tell whether calls that were to fail have come, and take back what is left of the wish where that can be done.

        :param fault: one that was brought about before.
        :raises NotNowError: when the stand-in does not answer.
        """
        service, wish = wish_of(fault)
        if service != AZURE_ML:
            made = self._wishes[id(fault)]
            self._stack.proxies[service].forget(made)
            return made.calls < fault.calls
        # What is left there waits for a later DAG run, which has to survive it too.
        waiting = self.control("GET", "faults")["faults"]
        left = [one["calls"] for one in waiting if wish.items() - {("calls", wish["calls"])} <= one.items()]
        return bool(sum(left) < fault.calls)

    def _let_fail(self, fault: Fault) -> None:
        service, wish = wish_of(fault)
        if service == AZURE_ML:
            self.control("POST", "faults", wish)
        else:
            self._wishes[id(fault)] = made = Wish(**wish)
            self._stack.proxies[service].wish(made)

    def control(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask one of the stand-in's control endpoints.

        :raises NotNowError: when it does not answer.
        """
        url = f"{self._stack.variables['LOCAL_SITE_AZURE_ML_URL']}/_control/{path}"
        try:
            with requests.Session() as session:
                session.trust_env, session.verify = False, self._stack.variables["LOCAL_SITE_CA"]
                answer = session.request(method, url, json=body, timeout=TIMEOUT_SECONDS)
        except requests.RequestException as error:
            raise NotNowError("the stand-in does not answer") from error
        answer.raise_for_status()
        content: dict[str, Any] = answer.json()
        return content

    def _kill_task(self, *, with_supervisor: bool) -> None:
        """End every task that runs at this moment, with or without the worker that watches over it."""
        table, titles, tasks = self._task_processes()
        if not tasks:
            raise NotNowError("no task runs")
        for pid in tasks:
            # The supervisor first, so that it cannot tell Airflow how its task ended.
            if with_supervisor and EXECUTOR_TITLE in titles.get(table[pid].parent, ""):
                _kill(table[pid].parent)
            _kill(pid)

    def a_task_runs(self) -> bool:
        """Tell whether any task's process is there."""
        return bool(self._task_processes()[2])

    def _task_processes(self) -> tuple[dict[int, Process], dict[int, str], list[int]]:
        """Return the scheduler's descendants, what they call themselves, and which of them are tasks."""
        table = {process.pid: process for process in self._stack.family("airflow-scheduler") if process.alive}
        titles = {pid: _title(pid) for pid in table}
        return table, titles, [pid for pid, title in titles.items() if _is_task(title)]

    def _cut_off_logins(self) -> Callable[[], None]:
        """End every session of the VM's SSH server and let nobody in; what runs on the VM goes on.

        The server itself is the first process of the VM's namespace: killed, it would take the jobs along. So it is stopped.
        """
        servers = {process.pid: process for process in self._stack.family("vm") if _command(process) == "sshd"}
        listeners = [process for process in servers.values() if process.parent not in servers]
        for process in listeners:
            os.kill(process.pid, signal.SIGSTOP)
        for process in servers.values():
            if process not in listeners:
                _kill(process.pid)

        def let_in() -> None:
            for process in listeners:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)

        return let_in


def wish_of(fault: Fault) -> tuple[str, dict[str, Any]]:
    """Return whose call fails, and what is asked for to make it so."""
    call = next(call for call in CALLS if call.title == fault.target)
    wish: dict[str, Any] = {"method": call.method, "path": call.path, "calls": fault.calls, "kind": fault.kind}
    if fault.kind.isdecimal():
        wish |= {"kind": "status", "status": int(fault.kind)} | ({"retry_after": 1} if fault.kind == "429" else {})
    return call.service, wish


def needs_of(fault: Fault) -> str:
    """Return what has to be prepared before the round, or ``""``."""
    return next((call.needs for call in CALLS if call.title == fault.target), "") if fault.kind != KILL else ""


def prepare(lane: Lane, needs: set[str], number: int, detach: Callable[[], None]) -> None:
    """Make sure that the calls that shall fail are made.

    :param lane: the lane of the round.
    :param needs: what :func:`needs_of` the round's faults returned.
    :param detach: takes the VM out of the workspace.
    :raises DemoError: when a need is unknown.
    """
    if unknown := needs - {"", DETACHED, NEW_CODE}:
        raise DemoError(f"Nobody knows how to prepare {', '.join(unknown)}.")
    if NEW_CODE in needs:
        lane.change_code(f"round {number}")
    if DETACHED in needs:
        detach()


def _is_task(title: str) -> bool:
    return title.startswith(TASK_TITLE) and not title.startswith(EXECUTOR_TITLE)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _command(process: Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/comm").read_text().strip()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
