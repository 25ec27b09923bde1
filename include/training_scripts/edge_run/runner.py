"""One run from beginning to end: grant, data, script, model, wiping, report; and what happens when a step fails."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from edge_run.edge_context import Parameter
from edge_run.errors import CanceledError, EdgeRunError, ReportError, ScriptError, UsageError, WithheldError
from edge_run.fetch import fetch_blobs
from edge_run.gate import Gate
from edge_run.grant import Grant, read_grant
from edge_run.policy import Policy, load_policy
from edge_run.record import RECORD_FILE, RunRecord
from edge_run.report import Reporter, make_reporter
from edge_run.sandbox import find_sandbox, make_plan
from edge_run.scan.scanner import Scanner
from edge_run.script import Script
from edge_run.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Arguments:
    """How a run was started.

    :param grant: the grant's file.
    :param fingerprint: the data fingerprint that the run was submitted for.
    :param parameters: the script's parameters.
    """

    grant: Path
    fingerprint: str
    parameters: dict[str, Parameter]


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, so that a wrong start is reported like any other failure."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"edge_run was started wrongly: {message}.")


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Read the command line.

    :raises UsageError: saying which argument is wrong.
    """
    parser = _Parser(prog="edge_run", description="Run the project's train.py on granted data, apart from the network.")
    parser.add_argument("--grant", required=True, type=Path, help="the grant's file on this machine")
    parser.add_argument("--fingerprint", required=True, help="the data fingerprint that the run was submitted for")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the script")
    found = parser.parse_args(argv)
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", found.fingerprint):
        raise UsageError("edge_run was started wrongly: --fingerprint is not sha256:<64 hex digits>.")
    return Arguments(found.grant.expanduser(), found.fingerprint, dict(_parameter(text) for text in found.param))


def _parameter(text: str) -> tuple[str, Parameter]:
    """Split ``name=value``; a value that is a JSON number, truth value or null becomes one, any other stays a text."""
    name, found, value = text.partition("=")
    if not found or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UsageError(
            "edge_run was started wrongly: a --param is not NAME=VALUE with a name of letters, digits and _."
        )
    try:
        parsed = json.loads(value)
    except ValueError:
        return name, value
    return name, parsed if isinstance(parsed, Parameter) else value


def main(argv: Sequence[str], snapshot: Path) -> int:
    """Run, report, and return the process's exit status.

    :param argv: the command line without the program.
    :param snapshot: the snapshot's root, which has ``project/train.py`` and takes ``outputs``.
    """
    record = RunRecord("")
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # noqa: PTH123
        return _main(argv, snapshot, record)


def _main(argv: Sequence[str], snapshot: Path, record: RunRecord) -> int:
    """Do the same, where nothing but the record's log can print: what Azure ML's SDK says is not on the record."""
    reporter = make_reporter()
    run = _Run(snapshot, reporter, record)
    run.outputs.mkdir(exist_ok=True)
    try:
        with _signals_end_the_run():
            arguments = parse_arguments(argv)
            record.fingerprint = arguments.fingerprint
            run.policy = load_policy(snapshot)
            run.go(arguments)
    except EdgeRunError as error:
        record.failure = (error.code, str(error))
    except Exception as error:  # noqa: BLE001 - a fault of ours: its text may hold a URL or data, so only its kind is told
        record.failure = (
            "Internal",
            f"The runner itself failed ({type(error).__name__} in {_place(error)}): please report it.",
        )
    _report(reporter, record)
    _finish(run.gate, record, run.outputs)
    return 1 if record.failure else 0


class _Run:
    """One run, from its grant to its models.

    :param snapshot: the snapshot's root.
    :param reporter: tells Azure ML.
    :param record: what is remembered of the run.
    """

    def __init__(self, snapshot: Path, reporter: Reporter, record: RunRecord) -> None:
        self.outputs = snapshot / "outputs"
        self.policy = Policy()
        self._snapshot = snapshot
        self._reporter = reporter
        self._record = record
        self._say = record.log.say
        self.gate = Gate(self.policy, reporter.metric, self._say)

    def go(self, arguments: Arguments) -> None:
        """Do it all; whatever happens, nothing of the data stays."""
        record = self._record
        if not (self._snapshot / "project" / "train.py").is_file():
            raise UsageError("The snapshot has no project/train.py: the pipeline lays it out with stage_source.")
        workspace, record.remains = open_workspace(Path.home())
        if record.remains.files:
            self._say(
                f"start  | removed {record.remains.files} files ({_size(record.remains.bytes)}) of runs that were killed"
            )
        accepted = False
        try:
            with record.phase("grant"):
                grant = read_grant(arguments.grant, arguments.fingerprint)
                accepted = True
            self._fetch(grant, workspace)
            script = self._script(grant, workspace, arguments)
            with record.phase("outputs"):
                self._let_models_out(script.models, workspace)
        finally:
            _ignore_signals()
            with record.phase("wipe"):
                self._wipe(workspace, arguments.grant if accepted else None)

    def _fetch(self, grant: Grant, workspace: Workspace) -> None:
        """Get the data, and learn to tell it again."""
        record = self._record
        size = _size(grant.total_bytes)
        self._say(f"grant  | {len(grant.blobs)} blobs, {size}, until {grant.expires:%Y-%m-%d %H:%M:%S%z}")
        with record.phase("fetch"):
            workspace.require_space(grant.total_bytes)
            paths = fetch_blobs(grant, workspace.data)
        record.data = {"blobs": len(grant.blobs), "bytes": grant.total_bytes}
        seconds = record.seconds["fetch"]
        self._say(f"fetch  | {len(grant.blobs)} blobs verified in {seconds:.1f} s, data {grant.fingerprint[:19]}")
        with record.phase("scan"):
            scanner = Scanner.best([paths[name] for name in sorted(paths)], self.policy)
        record.scan = {**scanner.facts(), "seconds": record.seconds["scan"]}
        self._say(f"scan   | {_learnt(record.scan)}")
        self.gate = Gate(self.policy, self._reporter.metric, self._say, scanner)

    def _script(self, grant: Grant, workspace: Workspace, arguments: Arguments) -> Script:
        record = self._record
        environment = {"EDGE_PARAMETERS": json.dumps(arguments.parameters)}
        project = self._snapshot / "project"
        with record.phase("sandbox"):
            sandbox, plan = find_sandbox(
                self.policy.sandbox, lambda sandbox: make_plan(sandbox, workspace, project, environment)
            )
        home = Path.home()
        hidden = [arguments.grant, workspace.root, self._snapshot, home / ".edge-training", home / ".ssh"]
        script = Script(sandbox, plan, self.policy, self.gate, _doors(grant), hidden)
        record.sandbox = {"kind": sandbox.kind, "self_test": script.self_test}
        self._say(f"script | train.py starts in {sandbox.kind}")
        try:
            with record.phase("script"):
                script.run()
        finally:
            record.sandbox["self_test"] = script.self_test
        self._say(f"script | train.py ended well after {record.seconds['script']:.1f} s")
        return script

    def _let_models_out(self, names: Sequence[str], workspace: Workspace) -> None:
        """Decide about all announced models, and only then hand them over.

        :raises ScriptError: when the script has not saved any.
        :raises WithheldError: when anything of the script's was withheld that the policy does not go on without.
        """
        passed = [name for name in names if self.gate.model(name, workspace.output)]
        if self.gate.withheld and (self.policy.on_withheld == "fail" or not passed):
            reasons = "; ".join(sorted({f"{item.kind}: {item.reason}" for item in self.gate.withheld}))
            raise WithheldError(
                f"{len(self.gate.withheld)} items of train.py were withheld ({reasons}). The model does not leave either."
            )
        if not passed:
            raise ScriptError(
                "train.py ended well but saved no model: it must call edge_context.save_model(model, name)."
            )
        self.gate.hand_over(workspace.output, self.outputs)
        for item in self.gate.items:
            if item.kind == "model" and item.name:
                self._say(f"model  | {item.name}, {item.bytes} bytes, sha256 {item.sha256[:12]}")

    def _wipe(self, workspace: Workspace, grant: Path | None) -> None:
        record = self._record
        if grant is not None:
            grant.unlink(missing_ok=True)
            record.grant_removed = True
        record.wiped = workspace.wipe()
        also = ", and the grant" if grant else ""
        self._say(f"wipe   | {record.wiped.files} files, {_size(record.wiped.bytes)}{also}")


def _learnt(scan: dict[str, Any]) -> str:
    if not scan["row_cells"]:
        return f"{scan['rows']} rows that cannot be told apart by their numbers; only whole blobs and single cells are recognised"
    runs = "a run" if scan["finds_needed"] == 1 else f"{scan['finds_needed']} runs"
    return (
        f"{scan['rows']} rows learnt in {scan['seconds']:.1f} s with {scan['method']}; {runs} of {scan['row_cells']} "
        "neighbouring cells would be recognised"
    )


def _doors(grant: Grant) -> list[tuple[str, int]]:
    """Return where the blobs came from, as a number: an open door that the script must not reach."""
    url = urlsplit(grant.blobs[0].url)
    address = socket.getaddrinfo(url.hostname, url.port or 443, type=socket.SOCK_STREAM)[0][4]
    return [(str(address[0]), int(address[1]))]


def _report(reporter: Reporter, record: RunRecord) -> None:
    with record.phase("report"):
        if record.failure:
            reporter.fail(*record.failure)
        try:
            reporter.close()
        except ReportError as error:
            record.log.say(f"report | {error}")
            record.failure = record.failure or (error.code, str(error))


def _finish(gate: Gate, record: RunRecord, outputs: Path) -> None:
    """Write the record; a run that failed leaves no model."""
    if record.failure:
        gate.take_back(outputs)
    record.write(gate, outputs)
    total = f"{len(gate.items)} items, {gate.bytes_out} bytes of the script's left; see outputs/{RECORD_FILE}"
    if record.failure:
        record.log.say(f"failed | {record.failure[0]}: {record.failure[1]}")
    record.log.say(f"end    | {'failed' if record.failure else 'completed'}: {total}")


@contextmanager
def _signals_end_the_run() -> Iterator[None]:
    """Turn the signals that end a process into an error, so that the data is wiped on the way out."""

    def cancel(number: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        raise CanceledError(f"The run was ended from outside by {signal.Signals(number).name}.")

    for number in _SIGNALS:
        signal.signal(number, cancel)
    try:
        yield
    finally:
        _ignore_signals()


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _place(error: BaseException) -> str:
    """Return the file and line where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
