"""Makes a sandbox, starts a command in it, and ends everything that is in it when the command or the runner ends.

Started as ``python -I -S launch.py JSON COMMAND...``, outside. The JSON has ``kind``, ``parent`` (the runner's process number),
``read_only`` and ``writable`` (pairs of where a path is and where it appears), ``environment``, ``folder`` (to start in), ``root`` (an
empty folder) and ``temporary_bytes``. The exit status is the command's, 128 and more for a signal, or 125 when there is no sandbox.
"""

# This runs before each script: contextlib and pathlib take longer to import than all the rest.
# ruff: noqa: PTH100, PTH120, SIM105

from __future__ import annotations

import json
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

NO_SANDBOX = 125
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def main() -> None:
    """Do it."""
    spec, command = json.loads(sys.argv[1]), sys.argv[2:]
    # Whatever happens from here on is waited for: a signal in the wrong moment leaves nothing behind.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDING, signal.SIGCHLD})
    try:
        status = {"namespaces": _in_namespaces, "seccomp": _confined}[spec["kind"]](spec, command)
    except OSError as error:
        _refuse(error)
    sys.exit(status)


def _in_namespaces(spec: dict[str, Any], command: list[str]) -> int:
    from edge_run.sandboxes import kernel, namespaces

    namespaces.leave()
    _die_with(spec["parent"], signal.SIGTERM)
    alive, until_we_end = os.pipe()
    first = _start(lambda: _be_first(spec, command, alive, until_we_end), keep_signals=True)
    kernel.hide_memory()
    os.close(alive)
    # When the first process of the namespace ends, the kernel ends all others, and only then is it waited for.
    return _watch(first, lambda: os.kill(first, signal.SIGKILL))


def _be_first(spec: dict[str, Any], command: list[str], alive: int, until_we_end: int) -> NoReturn:
    """Be the namespace's first process, which adopts what the others leave; the script is the second, like any other process."""
    from edge_run.sandboxes import kernel, namespaces

    os.close(until_we_end)
    namespaces.move_in(spec)
    kernel.hide_memory()
    kernel.die_with_parent(signal.SIGKILL)
    os.set_blocking(alive, False)
    try:
        os.read(alive, 1)
    except BlockingIOError:
        pass  # somebody holds the other end
    else:
        os._exit(NO_SANDBOX)
    script = _start(lambda: _become(spec, command))
    while True:
        ended, status = os.wait()
        if ended == script:
            os._exit(_exit_status(status))


def _confined(spec: dict[str, Any], command: list[str]) -> int:
    from edge_run.sandboxes import confined, kernel

    confined.check()
    _die_with(spec["parent"], signal.SIGTERM)
    kernel.adopt_orphans()
    launcher = os.getpid()

    def begin() -> NoReturn:
        # The filter lets nobody leave this group, so that all can be ended at once.
        os.setpgid(0, 0)
        _die_with(launcher, signal.SIGKILL)
        confined.move_in(spec)
        _become(spec, command)

    script = _start(begin)
    # For as long as somebody holds this folder, the kernel keeps the one that the script was allowed.
    folder = os.open(f"/proc/{script}", os.O_PATH)

    def end() -> None:
        os.kill(script, signal.SIGKILL)
        try:
            os.killpg(script, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it had not begun

    status = _watch(script, end)
    os.close(folder)
    return status


def _start(what: Callable[[], NoReturn], *, keep_signals: bool = False) -> int:
    """Start a process, and say why when it cannot do what it was made for."""
    process = os.fork()
    if process:
        return process
    try:
        if not keep_signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_ENDING, signal.SIGCHLD})
        what()
    except OSError as error:
        _refuse(error)
    finally:
        os._exit(NO_SANDBOX)


def _become(spec: dict[str, Any], command: list[str]) -> NoReturn:
    # Python ignores these, and what is ignored stays so in the next program.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(spec["folder"])
    os.execve(command[0], command, spec["environment"])  # noqa: S606 - a list of words, without a shell


def _watch(process: int, end: Callable[[], None]) -> int:
    """Wait for a process's end or our own, then end and wait for all that is left, and return the exit status."""
    while signal.sigwait({*_ENDING, signal.SIGCHLD}) == signal.SIGCHLD:
        if _has_ended(process):
            break
    end()
    status = NO_SANDBOX
    while True:
        try:
            ended, found = os.wait()
        except ChildProcessError:
            return status
        if ended == process:
            status = _exit_status(found)


def _has_ended(process: int) -> bool:
    """Let go of adopted processes that have ended, and tell whether the one that counts has; its number stays its own."""
    while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if ended.si_pid == process:
            return True
        os.waitpid(ended.si_pid, 0)
    return False


def _exit_status(status: int) -> int:
    number = os.waitstatus_to_exitcode(status)
    return number if number >= 0 else 128 - number


def _die_with(parent: int, number: int) -> None:
    from edge_run.sandboxes import kernel

    kernel.die_with_parent(number)
    if os.getppid() != parent:
        sys.exit(NO_SANDBOX)


def _refuse(error: OSError) -> NoReturn:
    sys.stderr.write(f"{error.strerror}{f': {error.filename}' if error.filename else ''}\n")
    sys.stderr.flush()
    os._exit(NO_SANDBOX)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    main()
