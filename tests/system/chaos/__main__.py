"""Chaos: `python -m tests.system.chaos --rounds N --seed S [--json FILE]`.

Brings up a local site and an Airflow of its own, runs the pipeline again and again while processes are killed and calls fail, and checks
after each round that nothing was lost and nothing was done twice.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from demo.errors import DemoError
from local_site.errors import LocalSiteError
from tests.system.chaos import report
from tests.system.chaos.calls import unknown
from tests.system.chaos.evidence import Evidence, Witness
from tests.system.chaos.plan import schedule
from tests.system.chaos.rounds import Round
from tests.system.chaos.stack import ChaosStack
from tests.system.chaos.strikes import Strikes

if TYPE_CHECKING:
    from types import FrameType

    from tests.system.chaos.plan import Fault
    from tests.system.chaos.rounds import Outcome

VIOLATED = 1
BROKEN = 2
INTERRUPTED = 130
LARGEST_SEED = 10**6


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for.

    :param arguments: those of this process by default.
    :return: 0 when nothing is violated, 1 when something is, 2 when the rounds could not be played, 130 when interrupted.
    """
    options = _parser().parse_args(arguments)
    seed = random.randrange(LARGEST_SEED) if options.seed is None else options.seed  # noqa: S311 - no secret
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        plan = schedule(options.rounds, seed, options.only)
        return Chaos(seed, options.json, keep=options.keep).play(plan)
    except (DemoError, LocalSiteError, ValueError) as error:
        print(f"\nError: {error}", file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        print("\nInterrupted; everything that was started is ended.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.system.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="how many DAG runs are disturbed (12)")
    parser.add_argument("--seed", type=int, help="the same seed makes the same schedule; by chance without")
    parser.add_argument("--json", type=Path, help="where to write everything as JSON")
    parser.add_argument(
        "--only", action="append", default=[], help="only faults with this in their name; may be repeated"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs; violations keep it too")
    return parser


class Chaos:
    """Plays a schedule.

    :param seed: is printed, so that the schedule can be played again.
    :param json_file: where to write the outcomes, or ``None``.
    :param keep: whether to keep the folder with all logs.
    """

    def __init__(self, seed: int, json_file: Path | None, *, keep: bool) -> None:
        self._seed = seed
        self._json = json_file
        self._keep = keep
        self._notes: list[str] = []
        self._outcomes: list[Outcome] = []

    def play(self, plan: list[tuple[Fault, ...]]) -> int:
        """Play all rounds and tell.

        :return: 0, or 1 when something is violated.
        """
        # Not below the project, and readable for the account of the VM.
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        stack = ChaosStack(folder)
        begin = time.monotonic()
        try:
            self._rounds(stack, plan)
        except BaseException:
            self._keep = True
            raise
        finally:
            stack.down()
            self._tell(time.monotonic() - begin)
            if self._keep or self._violated:
                print(f"All logs are in {folder}: airflow/logs, airflow/process-logs, site/logs.")
            else:
                shutil.rmtree(folder, ignore_errors=True)
        return VIOLATED if self._violated else 0

    @property
    def _violated(self) -> bool:
        return any(not outcome.recovered for outcome in self._outcomes) or bool(self._notes)

    def _rounds(self, stack: ChaosStack, plan: list[tuple[Fault, ...]]) -> None:
        _say(f"seed {self._seed}, {len(plan)} rounds, {report.machine()}")
        stack.up()
        strikes, witness = Strikes(stack), Witness(stack)
        outcome, evidence = Round(stack, strikes, witness, 0, ()).play(Evidence())
        _say(report.line(outcome))
        if not outcome.recovered:
            raise DemoError("The undisturbed round did not go well already, so the others would show nothing.")
        self._notes = [f"no fault disturbs {request}" for request in unknown(outcome.requests)]
        for number, faults in enumerate(plan, start=1):
            outcome, evidence = Round(stack, strikes, witness, number, faults).play(evidence)
            self._outcomes.append(outcome)
            _say(report.line(outcome))

    def _tell(self, seconds: float) -> None:
        if self._outcomes:
            _say("\n" + report.table(self._outcomes) + "\n\n" + report.summary(self._outcomes, self._seed, seconds))
        for note in self._notes:
            _say(f"!! {note}")
        if self._json is not None:
            report.write(self._json, self._outcomes, self._seed, seconds, self._notes)


def _say(text: str) -> None:
    print(text, flush=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
