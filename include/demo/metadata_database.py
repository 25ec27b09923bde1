"""Airflow's metadata database: a PostgreSQL of the demo's own, that nothing but a Unix socket in a private folder leads to.

Not SQLite, although Airflow runs on it: SQLite has one writer at a time. Airflow's API server writes from its event loop while a
request in a thread of the same process holds the lock and needs that event loop to go on, so on a busy machine it waits for
itself, and answers 500 or nothing at all. Row locks have no such knot, and production has PostgreSQL as well.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from demo.errors import DemoError
from local_site import files, processes

if TYPE_CHECKING:
    from demo.settings import DemoSettings

NAME = "airflow-database"
USER, DATABASE = "airflow", "postgres"
DEBIAN = Path("/usr/lib/postgresql")
ACCOUNT = "postgres"
# Of a path to a Unix socket, the kernel's own limit; PostgreSQL calls its socket so.
SOCKET_NAME, LONGEST_SOCKET = ".s.PGSQL.5432", 107
SERVER_SETTINGS = {
    "listen_addresses": "",
    # What is committed is on disk a moment later: the machine may lose the last moment, never the order of things.
    "synchronous_commit": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


class MetadataDatabase:
    """The server's programs, its folders and its address.

    :param settings: where the demo lives.
    :raises DemoError: when PostgreSQL is not installed, or the folder's path is too long for a socket.
    """

    def __init__(self, settings: DemoSettings) -> None:
        self._programs = _programs()
        # A newer PostgreSQL does not read the files of an older one. The names are short for the socket's sake.
        self._home = self._sockets = settings.airflow_home / f"pg-{_major(self._programs)}"
        self._data = self._home / "data"
        self._log = settings.process_logs / f"{NAME}.log"
        if len(os.fsencode(self._sockets / SOCKET_NAME)) > LONGEST_SOCKET:
            raise DemoError(
                f"The path {self._sockets / SOCKET_NAME} is longer than the {LONGEST_SOCKET} bytes that a Unix socket may have. "
                "Choose a folder with a shorter path for the demo's state with DEMO_STATE."
            )

    @property
    def url(self) -> str:
        """Where SQLAlchemy finds it; Airflow makes the address for asyncio of it."""
        return f"postgresql+psycopg2://{USER}@/{DATABASE}?host={quote(str(self._sockets), safe='')}"

    @property
    def is_made(self) -> bool:
        """Whether there is a database, empty or not."""
        return self._data.exists()

    def make(self) -> None:
        """Make an empty database, unless there is one; it appears whole or not at all.

        :raises DemoError: with what PostgreSQL said.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        # Whoever can enter this folder is let in without a password.
        self._home.chmod(0o700)
        self._as_server(self._home)
        if self.is_made:
            return
        unfinished = self._home / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._as_server(unfinished)
        command = [*_drop_root(), str(self._programs / "initdb"), "--pgdata", str(unfinished), "--no-sync"]
        command += ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C.UTF-8"]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        files.write(self._log, done.stdout + done.stderr)
        if done.returncode:
            raise DemoError(f"PostgreSQL could not make Airflow's database:\n{done.stderr.strip()}")
        unfinished.rename(self._data)

    def service(self) -> processes.Service:
        """Return the server as a process to be started."""
        settings = [part for name, value in SERVER_SETTINGS.items() for part in ("-c", f"{name}={value}")]
        program = [str(self._programs / "postgres"), "-D", str(self._data), "-k", str(self._sockets)]
        return processes.Service(
            name=NAME,
            argv=(*_drop_root(), *program, *settings),
            env={},
            cwd=Path("/"),
            log=self._log,
            ready=self._answers,
        )

    def _answers(self) -> bool:
        command = [str(self._programs / "pg_isready"), "--quiet", "--host", str(self._sockets)]
        return subprocess.run(command, check=False).returncode == 0

    def _as_server(self, folder: Path) -> None:
        if os.geteuid() == 0:
            account = _account()
            os.chown(folder, account.pw_uid, account.pw_gid)


def _programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs."""
    found = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    elsewhere = shutil.which("postgres")
    if elsewhere is None:
        raise DemoError(
            "PostgreSQL is not installed, which holds Airflow's metadata. Install what is missing: bin/setup"
        )
    return Path(elsewhere).resolve().parent


def _major(programs: Path) -> str:
    said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\d+", said)
    return match.group() if match else "0"


def _drop_root() -> list[str]:
    """Return what makes the server of a root another account, as PostgreSQL demands.

    The account keeps root's way through folders: the project may lie below one that only root can enter.
    """
    if os.geteuid() != 0:
        return []
    account = _account()
    capability = "+dac_override"
    ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, f"--inh-caps={capability}", f"--ambient-caps={capability}", "--"]


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        # A PostgreSQL that did not come from Debian has no account of its own; any but root will do.
        return pwd.getpwnam("nobody")
