"""Starts the project's script in the sandbox, and passes everything that it says through the gate."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edge_run.edge_context import MAX_MESSAGE_BYTES
from edge_run.errors import ProtocolError, SandboxError, ScriptError
from edge_run.protocol import Message, parse_message
from edge_run.sandbox import INSTALL, Plan, Sandbox, sealed_folders
from edge_run.watch import EVERY_SECONDS, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_run.gate import Gate
    from edge_run.policy import Policy

_READ_BYTES = 64 * 1024
_END_SECONDS = 10.0


@dataclass
class _Stream:
    """One pipe from the script, cut into lines of bounded length.

    :param name: ``"stdout"``, ``"stderr"`` or ``"messages"``.
    :param take: what is done with each line.
    :param longest: bytes after which a line is taken though it has not ended.
    """

    name: str
    take: Callable[[bytes], None]
    longest: int
    rest: bytes = b""

    def feed(self, chunk: bytes) -> None:
        """Take the lines that are complete; an empty chunk is the end."""
        ended = not chunk
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        if ended or len(self.rest) > self.longest:
            lines.append(self.rest)
            self.rest = b""
        for line in lines:
            if line:
                self.take(line)


@dataclass
class Script:
    """One script, run once.

    :param sandbox: the kind of sandbox.
    :param plan: what the script sees; its environment must name the pipe as this class passes it on.
    :param policy: the limits.
    :param gate: takes what the script says.
    :param doors: addresses outside that the self-test must not reach, besides one that is opened for it.
    :param hidden: paths that the self-test must not be able to open, nor see where the sandbox has a file system of its own.
    """

    sandbox: Sandbox
    plan: Plan
    policy: Policy
    gate: Gate
    doors: Sequence[tuple[str, int]]
    hidden: Sequence[Path]
    models: list[str] = field(default_factory=list)
    self_test: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Run the script to its end.

        :raises SandboxError: when the sandbox cannot be made or does not hold; the script was not started then.
        :raises ScriptError: when the script raised, was killed, or took longer than the policy allows.
        :raises ProtocolError: when it said what the runner does not understand; it is ended at once.
        """
        reader, writer = os.pipe()
        with socket.create_server(("127.0.0.1", 0)) as door, socket.socket(socket.AF_UNIX) as abstract:
            # Such names are shared by all who share the network, and process numbers repeat.
            name = f"edge-run-{secrets.token_hex(8)}"
            abstract.bind(f"\0{name}")
            abstract.listen()
            _prove_door(door)
            command = self._command(writer, door.getsockname()[1], name)
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=(writer,),
                    env={},
                    start_new_session=True,
                )
            finally:
                os.close(writer)
            in_time = False
            try:
                in_time = self._listen(process, reader)
            finally:
                _end(process, reader, at_once=not in_time)
                self.gate.release()
        self._judge(process.returncode, in_time)

    def _command(self, descriptor: int, port: int, abstract: str) -> list[str]:
        places, environment = self.plan.places, {**self.plan.environment, "EDGE_PROTOCOL_FD": str(descriptor)}
        spec = {
            "doors": [("127.0.0.1", port), *self.doors],
            "abstract": abstract,
            "runner": os.getpid(),
            "closed": [str(path) for path in self.hidden],
            "hidden": [str(path) for path in self.hidden if self.sandbox.has_root],
            "sealed": [str(path) for path in sealed_folders(self.sandbox, self.plan)],
            "environment": sorted(environment),
            "limits": _limits(self.policy),
            "script": str(places.project / "train.py"),
        }
        plan = replace(self.plan, environment=environment)
        return [*self.sandbox.command(plan), sys.executable, str(places.self_test), json.dumps(spec)]

    def _listen(self, process: subprocess.Popen[bytes], messages: int) -> bool:
        """Take all that the script says until it ends; tell whether it ended in time."""
        deadline = time.monotonic() + self.policy.seconds
        watch = self._watch(process.pid)
        assert process.stdout is not None  # noqa: S101 - for the type checker: both pipes were asked for
        assert process.stderr is not None  # noqa: S101
        with selectors.DefaultSelector() as selector:
            selector.register(
                process.stdout, selectors.EVENT_READ, _Stream("stdout", self._line("stdout"), _READ_BYTES)
            )
            selector.register(
                process.stderr, selectors.EVENT_READ, _Stream("stderr", self._line("stderr"), _READ_BYTES)
            )
            selector.register(messages, selectors.EVENT_READ, _Stream("messages", self._message, MAX_MESSAGE_BYTES))
            while selector.get_map():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                if excess := watch.excess():
                    raise ScriptError(f"train.py was ended because {excess}, the most that the policy allows.")
                for key, _ in selector.select(min(remaining, EVERY_SECONDS)):
                    chunk = os.read(key.fd, _READ_BYTES)
                    key.data.feed(chunk)
                    if not chunk:
                        selector.unregister(key.fileobj)
        return True

    def _watch(self, pid: int) -> Watch:
        folders = list(self.plan.writable)
        disk = self.policy.disk_bytes or shutil.disk_usage(folders[0]).free // 2
        return Watch(pid, folders, self.policy.processes, _memory(self.policy), disk)

    def _line(self, stream: str) -> Callable[[bytes], None]:
        def take(line: bytes) -> None:
            for part in line.decode("utf-8", "replace").split("\r"):
                if part:
                    self.gate.line(stream, part)

        return take

    def _message(self, line: bytes) -> None:
        message = parse_message(line)
        if not self.self_test:
            self._admit(message)
            return
        if message.method == "sandbox_ready":
            raise ProtocolError("The script said sandbox_ready, which only the runner's own self-test may say.")
        getattr(self, f"_on_{message.method}")(**message.params)

    def _admit(self, message: Message) -> None:
        """Take the self-test's result; nothing may come before it."""
        if message.method != "sandbox_ready" or not message.params["checks"]:
            raise SandboxError("Something spoke in the sandbox before its self-test did: the run is ended.")
        self.self_test = {str(name): str(found) for name, found in message.params["checks"].items()}
        if holes := {name: found for name, found in self.self_test.items() if found != "closed"}:
            raise SandboxError(
                f"The {self.sandbox.kind} sandbox does not hold, so the script was not started: {holes}."
            )

    def _on_log_metric(self, name: str, value: float, step: int | None) -> None:
        self.gate.metric(name, value, step)

    def _on_log_text(self, text: str) -> None:
        for line in text.splitlines():
            self.gate.line("text", line)

    def _on_report_progress(self, fraction: float, text: str) -> None:
        self.gate.line("text", f"{min(1.0, max(0.0, fraction)):.0%} {text}")

    def _on_save_model(self, name: str) -> None:
        if name not in self.models:
            self.models.append(name)

    def _judge(self, status: int, in_time: bool) -> None:
        tail = self.gate.last_lines("stderr")
        if not self.self_test:
            raise SandboxError(
                f"{self.sandbox.kind} could not make the sandbox: {' / '.join(tail) or f'status {status}'}. The VM must allow user "
                f"namespaces to the training account (sysctl, AppArmor), or {INSTALL}."
            )
        if not in_time:
            raise ScriptError(f"train.py was ended after {self.policy.seconds} s, the longest that the policy allows.")
        if status > 128 or status < 0:
            name = _signal_name(status - 128 if status > 0 else -status)
            raise ScriptError(
                f"train.py was killed by {name}; SIGKILL usually means that the VM ran out of memory, SIGXFSZ that a file grew "
                "beyond the policy's file_bytes."
            )
        if status:
            raise ScriptError("\n".join([f"train.py ended with status {status}. Its last lines:", *tail]))


def _limits(policy: Policy) -> dict[str, int]:
    return {"AS": _memory(policy), "NPROC": policy.processes, "FSIZE": policy.file_bytes, "CORE": 0, "NOFILE": 4096}


def _memory(policy: Policy) -> int:
    return policy.memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _prove_door(door: socket.socket) -> None:
    """Connect from outside: a self-test against a closed door would prove nothing."""
    with socket.create_connection(door.getsockname(), timeout=5.0):
        door.accept()[0].close()


def _end(process: subprocess.Popen[bytes], reader: int, *, at_once: bool) -> None:
    """Leave nothing of the sandbox behind: what started it ends all that is in it, before it ends itself."""
    if at_once:
        process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    os.close(reader)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
