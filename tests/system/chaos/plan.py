"""Which fault comes when: the same seed makes the same schedule, and every fault has its turn before one comes again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar

from tests.system.chaos.calls import CALLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Item = TypeVar("Item")

KILL = "kill -9"
INJECTIONS = ("lost_response", "429", "500", "reset")
TASKS = (
    "verify_blob_data",
    "check_training_code",
    "resolve_base_image",
    "ensure_compute_attached",
    "grant_data_access",
    "scan_training_code",
    "submit_experiment",
    "poll_run",
    "prepare_serving_host",
    "revoke_data_access",
    "audit_egress",
    "register_model",
    "build_and_push_image",
    "verify_image",
    "deploy_model",
)
ANY = "any moment"
WAITING = ("submit_experiment", "poll_run", "poll_run", "register_model", ANY)
# What is killed, and in which steps that can matter; a step that stands twice has its turn twice.
KILLS = {
    "task": (*TASKS, "poll_run", ANY),
    "worker": (*TASKS, ANY),
    "scheduler": (*TASKS, "poll_run", ANY),
    "triggerer": WAITING,
    "dag-processor": ("verify_blob_data", "submit_experiment", "poll_run", ANY),
    "api-server": ("grant_data_access", *WAITING, "build_and_push_image"),
    "azure-ml": ("ensure_compute_attached", *WAITING, "build_and_push_image"),
    "sshd": (
        "ensure_compute_attached",
        "grant_data_access",
        "scan_training_code",
        "prepare_serving_host",
        "revoke_data_access",
        "audit_egress",
        "verify_image",
        "deploy_model",
        *WAITING,
    ),
    "blob": ("verify_blob_data", "ensure_compute_attached", "poll_run", "audit_egress", ANY),
    "registry": (
        "resolve_base_image",
        "prepare_serving_host",
        "build_and_push_image",
        "build_and_push_image",
        "verify_image",
        "deploy_model",
        ANY,
    ),
}
SECOND_FAULT = 0.5
# Seconds from a task's start within which it is hit: about as long as it runs, so that most hits come before its end.
QUICK_TASK = 0.25
LONG_TASKS = {
    "ensure_compute_attached": 1.0,
    "submit_experiment": 1.2,
    "poll_run": 4.0,
    "audit_egress": 1.0,
    "register_model": 0.7,
    "build_and_push_image": 0.8,
    "verify_image": 2.0,
    "deploy_model": 2.0,
}
LONGEST_DOWN = 4.0
USUAL_SECONDS = 12.0


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    :param kind: ``KILL``, or one of INJECTIONS.
    :param target: a process, or the name of a call.
    :param step: the task during which it happens, or ``ANY``.
    :param delay: seconds from the task's start, or from the round's.
    :param down: seconds until what was killed is started again.
    :param calls: how many calls in a row fail.
    """

    kind: str
    target: str
    step: str
    delay: float = 0.0
    down: float = 0.0
    calls: int = 1

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"{self.kind} {self.target}" if self.kind == KILL else f"{self.kind}: {self.target}"

    def __str__(self) -> str:
        when = f"{self.step} + {self.delay:.1f} s"
        more = f", down {self.down:.1f} s" if self.down else f", {self.calls} calls" * (self.calls > 1)
        return f"{self.name} at {when}{more}"


def schedule(rounds: int, seed: int, only: Sequence[str] = ()) -> list[tuple[Fault, ...]]:
    """Return the faults of each round.

    :param rounds: how many.
    :param seed: chooses everything.
    :param only: parts of names; without any, all faults take part.
    :raises ValueError: when no fault has such a name.
    """
    # It chooses faults, and keeps nothing secret.
    chance = random.Random(seed)  # noqa: S311
    decks = [deck for faults in (_kills(chance), _injections(chance)) if (deck := _named(faults, only))]
    if not decks:
        raise ValueError(f"No fault has a name with {' or '.join(only)} in it.")
    endless = [_forever(deck) for deck in decks]
    plan = []
    for number in range(rounds):
        faults = [next(endless[number % len(endless)])]
        # There are more calls than processes, and two faults are as well survived as one.
        if faults[0].kind != KILL or chance.random() < SECOND_FAULT:
            faults.append(next(endless[-1]))
        plan.append(tuple(_timed(fault, chance) for fault in faults))
    return plan


def _kills(chance: random.Random) -> list[Fault]:
    """Return every kill, so that each process has its turn before one comes again."""
    by_target = [[Fault(KILL, target, step) for step in _shuffled(steps, chance)] for target, steps in KILLS.items()]
    return _dealt(_shuffled(by_target, chance))


def _injections(chance: random.Random) -> list[Fault]:
    """Return every injection: all calls in turn, each time in another way, until every call has failed in every way."""
    calls = _shuffled(CALLS, chance)
    turns = range(len(INJECTIONS))
    return [
        Fault(INJECTIONS[(place + turn) % len(INJECTIONS)], call.title, chance.choice(call.steps))
        for turn in turns
        for place, call in enumerate(calls)
    ]


def _dealt(decks: Iterable[list[Fault]]) -> list[Fault]:
    return [fault for hand in zip_longest(*decks) for fault in hand if fault is not None]


def _shuffled(items: Iterable[Item], chance: random.Random) -> list[Item]:
    return chance.sample(found := list(items), len(found))


def _named(faults: list[Fault], only: Sequence[str]) -> list[Fault]:
    return [fault for fault in faults if not only or any(part in fault.name for part in only)]


def _forever(deck: list[Fault]) -> Iterator[Fault]:
    while True:
        yield from deck


def _timed(fault: Fault, chance: random.Random) -> Fault:
    if fault.kind != KILL:
        return Fault(fault.kind, fault.target, fault.step, calls=chance.choice((1, 1, 1, 3)))
    longest = USUAL_SECONDS if fault.step == ANY else LONG_TASKS.get(fault.step, QUICK_TASK)
    down = 0.0 if fault.target in {"task", "worker"} else chance.uniform(0.2, LONGEST_DOWN)
    return Fault(fault.kind, fault.target, fault.step, delay=chance.uniform(0, longest), down=down)
