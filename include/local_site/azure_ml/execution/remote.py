"""A run's folder on the virtual machine, and the few shell commands that put it there, start it, follow it and end it.

::

    $HOME/azureml/runs/<run id>/
        work/             the snapshot; the run's working directory
        run.sh            makes the environment if need be, starts the script, and writes its exit status to `status`
        prepare.sh        makes the environment, when the definition asks for one of pip packages
        environment.sh    the run's variables, its token among them (mode 0600: not on a command line, where `ps` shows it)
        ca-bundle.pem     the authorities that the run trusts
        launched, pid, status, unprepared, std_log.txt

The script runs in a session of its own and writes to a file, so it outlives this server's connection: after a restart
the server finds it by this folder. Only a POSIX shell, coreutils, util-linux and tar are needed on the machine.
"""

from __future__ import annotations

import io
import shlex
import tarfile
import tempfile
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol

from local_site.azure_ml.ssh import CHUNK, VM, VMError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import paramiko

GRACE_TENTHS = 80
UPLOADED = ("outputs", "logs")
LARGEST_LISTING = 64 * 1024 * 1024

RUN = """cd {folder}/work || exit 70
. ../environment.sh
if [ -e ../prepare.sh ] && ! sh ../prepare.sh; then : > ../unprepared; code=1
else {command}
code=$?
fi
echo "$code" > ../status.part && mv ../status.part ../status
"""

# Done twice, because a connection broke or this server was restarted in between, it starts one process: only one can
# make the folder `launched`.
LAUNCH = """cd {folder} && mkdir launched 2>/dev/null || exit 0
setsid sh ./run.sh > std_log.txt 2>&1 < /dev/null &
echo $! > pid.part && mv pid.part pid"""

# A copy that was cut off leaves only its own draft behind; of two copies of the same run, either may stay.
FILL = """umask 077; mkdir -p {draft}/work && tar -xf - -C {draft} || {{ rm -rf {draft}; exit 1; }}
mv -T {draft} {folder} 2>/dev/null || rm -rf {draft}
test -e {folder}/run.sh"""

# The state in /proc is read as well as its existence: a machine whose first process reaps nobody keeps zombies.
FOLLOW = """cd {folder} || exit 3
offset={offset}; pid=$(cat pid)
while :; do
  ended=
  if [ -e status ]; then ended=1
  elif ! {{ read -r line < "/proc/$pid/stat"; }} 2>/dev/null; then ended=1
  else case "${{line##*) }}" in [ZX]*) ended=1;; esac
  fi
  size=$(stat -c %s std_log.txt)
  if [ "$size" -gt "$offset" ]; then
    tail -c "+$((offset + 1))" std_log.txt | head -c "$((size - offset))" || exit 4
    offset=$size
  fi
  [ -n "$ended" ] && exit 0
  sleep 0.25
done"""

END = """cd {folder} 2>/dev/null && [ -e pid ] || exit 0
pid=$(cat pid)
alive() {{
  cat /proc/[0-9]*/stat 2>/dev/null |
  awk -v group="$pid" '{{ sub(/.*[)] /, ""); if ($3 == group && $1 !~ /[ZX]/) n++ }} END {{ exit n == 0 }}'
}}
left={tenths}
kill -s {first} -- "-$pid" 2>/dev/null
while [ "$left" -gt 0 ] && alive; do left=$((left - 1)); sleep 0.1; done
kill -s KILL -- "-$pid" 2>/dev/null
exit 0"""

LIST = """cd {folder}/work || exit 3
for name in {names}; do [ ! -d "$name" ] || find "$name" -type f -printf '%s %T@ %p\\0'; done"""

COLLECT = "cd {folder}/work && tar -cf - --no-recursion --null -T -"


class RunFolder:
    """The folder of one run on the machine at the other end of a connection.

    :param vm: an open connection.
    :param run_id: the run's id, which is safe as a folder's name.
    """

    def __init__(self, vm: VM, run_id: str) -> None:
        self._vm = vm
        status, home = vm.run("echo $HOME")
        self.home = home.decode().strip()
        if status != 0 or not self.home.startswith("/"):
            raise VMError("HomeUnknown", f"The account's home folder is unknown: 'echo $HOME' printed {self.home!r}.")
        self.path = f"{self.home}/azureml/runs/{run_id}"
        self._quoted = shlex.quote(self.path)

    def has(self, name: str) -> bool:
        """Tell whether the folder holds a file of this name."""
        return self._vm.run(f"test -e {self._quoted}/{name}")[0] == 0

    def wait_for(self, name: str, seconds: float) -> bool:
        """Wait until the folder holds a file of this name, and tell whether it does."""
        tenths = int(seconds * 10)
        found = (
            f"n={tenths}; while ! test -e {self._quoted}/{name}; do n=$((n-1)); [ $n -gt 0 ] || exit 1; sleep 0.1; done"
        )
        return self._vm.run(found)[0] == 0

    def fill(self, files: dict[str, bytes], snapshot: dict[str, Path], folders: list[str]) -> None:
        """Make the folder with everything in it, or leave the one that an earlier process made for this run.

        :param files: contents by name, beside the snapshot.
        :param snapshot: local files by their name in the snapshot.
        :raises VMError: when the machine cannot hold it, such as a full disk.
        """
        draft = shlex.quote(f"{self.path}.{uuid.uuid4().hex}.draft")
        command = FILL.format(draft=draft, folder=self._quoted)
        with tempfile.TemporaryFile() as archive:
            _pack(archive, files, snapshot, folders)
            archive.seek(0)
            status, output = self._vm.run(command, iter(lambda: archive.read(CHUNK), b""), seconds=120)
        if status != 0:
            raise VMError("SnapshotCopyFailed", f"The snapshot cannot be copied to {self.path}: {_text(output)}")

    def launch(self) -> None:
        """Start the script in a session of its own.

        :raises VMError: when the machine cannot start a process.
        """
        status, output = self._vm.run(LAUNCH.format(folder=self._quoted))
        if status != 0:
            raise VMError("LaunchFailed", f"The script cannot be started in {self.path}: {_text(output)}")

    @contextmanager
    def following(self, offset: int, silence: float) -> Iterator[paramiko.Channel]:
        """Read what the script prints from a byte on, until it has ended.

        :param silence: seconds after which a read gives up for the moment (TimeoutError).
        """
        command = FOLLOW.format(folder=self._quoted, offset=offset)
        with self._vm.started(command, silence, combined=False) as channel:
            yield channel

    def alive(self) -> None:
        """Check that the machine still answers.

        :raises VMUnreachableError: when it does not.
        """
        self._vm.run("true", seconds=10)

    def end(self, *, gently: bool) -> None:
        """End every process of the script's group.

        :param gently: whether the script is asked first and has a few seconds to clean up after itself.
        """
        self._vm.run(
            END.format(folder=self._quoted, first="TERM" if gently else "KILL", tenths=GRACE_TENTHS if gently else 20)
        )

    def status(self) -> int | None:
        """Return the script's exit status, or ``None`` when it ended without one."""
        code, output = self._vm.run(f"cat {self._quoted}/status")
        text = output.decode("utf-8", "replace").strip()
        return int(text) if code == 0 and text.isdigit() else None

    def unprepared(self) -> bool:
        """Tell whether the environment could not be made; the script was not started then."""
        return self.has("unprepared")

    def listing(self) -> dict[str, tuple[int, str]]:
        """Return the size and the time of change of each regular file below ``outputs/`` and ``logs/``."""
        command = LIST.format(folder=self._quoted, names=" ".join(UPLOADED))
        _, output = self._vm.run(command, largest=LARGEST_LISTING)
        found = {}
        for line in output.decode("utf-8", "surrogateescape").split("\0"):
            size, _, rest = line.partition(" ")
            changed, _, name = rest.partition(" ")
            if name and size.isdigit():
                found[name] = int(size), changed
        return found

    def fetch(self, names: list[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Return the content of files, by their names in :meth:`listing`; what is gone meanwhile is left out."""
        wanted = "\0".join(names).encode("utf-8", "surrogateescape")
        with self._vm.started(COLLECT.format(folder=self._quoted), 60, combined=False) as channel:
            channel.sendall(wanted)
            channel.shutdown_write()
            stream = channel.makefile("rb")
            if not (first := stream.read(tarfile.BLOCKSIZE)):
                return
            with tarfile.open(fileobj=_Joined(first, stream), mode="r|") as archive:  # type: ignore[call-overload]  # any object with read()
                for member in archive:
                    content = archive.extractfile(member) if member.isreg() else None
                    if content is not None:
                        yield member.name, _pieces(content)

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        self._vm.run(f"rm -rf {self._quoted} {self._quoted}.*.draft")


class _Readable(Protocol):
    def read(self, size: int) -> bytes: ...


class _Joined:
    """A stream whose first bytes were read already."""

    def __init__(self, first: bytes, rest: _Readable) -> None:
        self._first = io.BytesIO(first)
        self._rest = rest

    def read(self, size: int) -> bytes:
        part = self._first.read(size)
        return part + self._rest.read(size - len(part)) if len(part) < size else part


def _pack(archive: BinaryIO, files: dict[str, bytes], snapshot: dict[str, Path], folders: list[str]) -> None:
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in folders:
            folder = tarfile.TarInfo(f"work/{name}")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o700
            tar.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
        for name, path in snapshot.items():
            entry = tarfile.TarInfo(f"work/{name}")
            entry.size, entry.mode = path.stat().st_size, 0o600
            with path.open("rb") as stream:
                tar.addfile(entry, stream)


def _pieces(stream: _Readable) -> Iterator[bytes]:
    while piece := stream.read(CHUNK):
        yield piece


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip()[-500:] or "it said nothing"
