"""The process table of this machine, as far as it is needed to end a service with everything it has started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class Process:
    """One line of the process table.

    :param state: A letter, as in `ps`.
    :param parent: The id of its parent.
    :param group: The id of its process group.
    :param session: The id of its session.
    :param started: When, in clock ticks since the machine was started.
    """

    pid: int
    state: str
    parent: int
    group: int
    session: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it runs; what is dead and was not waited for is still in the table."""
        return self.state not in "ZX"


def find(pid: int) -> Process | None:
    """Return a process, or None when there is none with this id.

    :param pid: Its id.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets, which may itself hold spaces and brackets.
    fields = stat.rpartition(")")[2].split()
    return Process(
        pid=pid,
        state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
    )


def everything() -> Iterator[Process]:
    """Return every process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := find(int(entry.name))) is not None:
            yield process


def family(pid: int) -> set[Process]:
    """Return a process with all of its descendants and all of its session, daemons among them.

    :param pid: Its id.
    """
    table = list(everything())
    members = {process.pid for process in table if pid in (process.pid, process.session, process.group)}
    while more := {process.pid for process in table if process.parent in members} - members:
        members |= more
    return {process for process in table if process.pid in members}


def alive(processes: Iterable[Process]) -> list[Process]:
    """Return those that still run: the same processes, not others that were given their ids.

    :param processes: Processes as they were seen before.
    """
    return [
        now
        for member in processes
        if (now := find(member.pid)) is not None and now.alive and now.started == member.started
    ]
