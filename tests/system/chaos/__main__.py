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
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from demo.errors import DemoError
from local_site.errors import LocalSiteError
from tests.running_site import free_ports
from tests.system.chaos import report
from tests.system.chaos.calls import unknown
from tests.system.chaos.evidence import ENDED, LIST_LEFT, Witness, WitnessError
from tests.system.chaos.keeper import Keeper
from tests.system.chaos.lanes import make_lane
from tests.system.chaos.plan import schedule
from tests.system.chaos.rounds import Player
from tests.system.chaos.stack import ChaosStack
from tests.system.chaos.strikes import Strikes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from tests.system.chaos.plan import Fault
    from tests.system.chaos.rounds import Outcome

    Round = tuple[int, tuple[Fault, ...]]

VIOLATED = 1
BROKEN = 2
INTERRUPTED = 130
LARGEST_SEED = 10**6
LANES = 3


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
        return Chaos(seed, options.json, options.lanes, keep=options.keep).play(plan)
    except (DemoError, LocalSiteError, WitnessError, ValueError) as error:
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
    parser.add_argument("--lanes", type=int, default=LANES, help=f"how many DAG runs go on at once ({LANES})")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs; violations keep it too")
    return parser


class Chaos:
    """Plays a schedule in several lanes at once.

    :param seed: is printed, so that the schedule can be played again.
    :param json_file: where to write the outcomes, or ``None``.
    :param lanes: how many DAG runs go on at once.
    :param keep: whether to keep the folder with all logs.
    """

    def __init__(self, seed: int, json_file: Path | None, lanes: int, *, keep: bool) -> None:
        self._seed = seed
        self._json = json_file
        self._lanes = lanes
        self._keep = keep
        self._notes: list[str] = []
        self._outcomes: list[Outcome] = []
        self._ended_by_themselves: list[str] = []
        self._abandoned = threading.Event()

    def play(self, plan: list[tuple[Fault, ...]]) -> int:
        """Play all rounds and tell.

        :return: 0, or 1 when something is violated.
        """
        # Not below the project, and readable for the account of the VM.
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        ports = free_ports(self._lanes)
        stack = ChaosStack(
            folder,
            lambda place: [make_lane(place, f"lane_{n}", serving_port=port) for n, port in enumerate(ports, start=1)],
        )
        begin = time.monotonic()
        try:
            self._rounds(stack, plan)
        except BaseException:
            self._keep = True
            raise
        finally:
            # A second signal would leave everything running.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
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
        _say(f"seed {self._seed}, {len(plan)} rounds, {self._lanes} lanes, {report.machine()}")
        stack.up()
        with Keeper(stack) as keeper, ThreadPoolExecutor(self._lanes) as pool:
            strikes = Strikes(stack, keeper)
            players = [Player(stack, lane, strikes) for lane in stack.lanes]
            # In one lane: what is there for the first time in the others meets faults as well.
            if not self._play(players[0], 0, ()).recovered:
                raise DemoError("The undisturbed round did not go well already, so the others would show nothing.")
            self._notes += self._strangers(stack, strikes)
            rounds = enumerate(plan, start=1)
            turn = threading.Lock()

            def play_on(player: Player) -> None:
                while (one := _next(rounds, turn)) is not None and keeper.error is None:
                    self._outcomes.append(self._play(player, *one))

            try:
                for done in [pool.submit(play_on, player) for player in players]:
                    done.result()
            except BaseException:
                self._abandoned.set()
                raise
            finally:
                for player in players:
                    player.watch.close()
        if keeper.error is not None:
            raise DemoError(f"What had been killed could not be started again: {keeper.error}") from keeper.error
        self._notes += self._last_look(stack)
        self._ended_by_themselves = [name for _, name in keeper.by_itself]

    def _play(self, player: Player, number: int, faults: tuple[Fault, ...]) -> Outcome:
        if self._abandoned.is_set():
            raise DemoError("Another lane has given up.")
        try:
            outcome = player.play(number, faults)
        except BaseException:
            self._abandoned.set()
            raise
        _say(report.line(outcome))
        return outcome

    def _strangers(self, stack: ChaosStack, strikes: Strikes) -> list[str]:
        """Return what the undisturbed DAG run asked for and no fault disturbs."""
        journal = strikes.control("GET", "journal")["requests"]
        found = unknown("azure-ml", [(one["method"], one["path"]) for one in journal])
        for service, proxy in stack.proxies.items():
            found += unknown(service, proxy.requests)
        return [f"no fault disturbs {request}" for request in found]

    def _last_look(self, stack: ChaosStack) -> list[str]:
        """Return what is left though no DAG run goes on any more."""
        left = set(stack.site.ssh(LIST_LEFT).stdout.split())
        runs = {
            f"{run} ({state})"
            for lane in stack.lanes
            for run, state in Witness(stack, lane).look().runs.items()
            if state not in ENDED
        }
        return [f"at the very end there is still {what}" for what in sorted(left | runs)]

    def _tell(self, seconds: float) -> None:
        outcomes = sorted(self._outcomes, key=lambda outcome: outcome.number)
        if outcomes:
            _say("\n" + report.table(outcomes) + "\n\n" + report.summary(outcomes, self._seed, seconds))
        if self._ended_by_themselves:
            _say(f"ended though nobody had killed them: {', '.join(self._ended_by_themselves)}")
        for note in self._notes:
            _say(f"!! {note}")
        if self._json is not None:
            report.write(self._json, outcomes, self._seed, seconds, self._notes)


def _next(rounds: Iterator[Round], turn: threading.Lock) -> Round | None:
    """Return the next round that no lane has taken yet."""
    with turn:
        return next(rounds, None)


def _say(text: str) -> None:
    print(text, flush=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
