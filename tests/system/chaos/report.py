"""What the rounds came to: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from local_site import files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.system.chaos.rounds import Outcome


@dataclass
class Row:
    """One fault in one step.

    :param rounds: in how many rounds it was planned.
    :param hits: in how many of them it had an effect.
    :param recoveries: how many of these rounds ended well.
    :param failures: how many ended with a DAG run that says that it failed.
    :param violations: how many ended with something that must not be.
    """

    fault: str
    step: str
    rounds: int = 0
    hits: int = 0
    recoveries: int = 0
    failures: int = 0
    violations: int = 0
    seconds: list[float] = field(default_factory=list)


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return the table; a round with two faults counts for both."""
    found: dict[tuple[str, str], Row] = {}
    for outcome in outcomes:
        for one in outcome.struck:
            key = (one.fault.name, one.step)
            row = found.setdefault(key, Row(*key))
            row.rounds += 1
            row.hits += one.hit
            row.recoveries += outcome.recovered
            row.failures += outcome.told.state == "failed"
            row.violations += bool(outcome.violations)
            row.seconds.append(outcome.seconds)
    return [found[key] for key in sorted(found)]


def machine() -> str:
    """Say what this machine is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} processors, {memory:.0f} GiB, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def line(outcome: Outcome) -> str:
    """Return a round in one line, and below it what is wrong."""
    faults = "; ".join(f"{one.fault}{'' if one.hit else ' (not met)'}" for one in outcome.struck) or "undisturbed"
    state = (
        "ok" if outcome.recovered else f"{outcome.told.state}: VIOLATION" if outcome.violations else outcome.told.state
    )
    head = f"{outcome.number:4d}  {outcome.lane:<8}  {state:<10}{outcome.seconds:6.1f} s  {outcome.retries} retries  {faults}"
    more = [f"!! {sentence}" for sentence in outcome.violations]
    more += [f"failed {task}: {text[:300]}" for task, text in outcome.said.items()]
    return "\n".join([head, *(f"      {sentence}" for sentence in more)])


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table as text."""
    width = max([len(row.fault) for row in rows(outcomes)], default=5)
    head = f"{'fault':<{width}}  {'step':<24} rounds  met  recovered  failed  violations  median"
    lines = [head, "-" * len(head)]
    for row in rows(outcomes):
        median = statistics.median(row.seconds)
        lines.append(
            f"{row.fault:<{width}}  {row.step:<24} {row.rounds:6d} {row.hits:4d} {row.recoveries:10d} {row.failures:7d} "
            f"{row.violations:11d} {median:6.1f} s"
        )
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome], seed: int, seconds: float) -> str:
    """Return the last lines."""
    violated = [outcome.number for outcome in outcomes if outcome.violations]
    failed = [outcome.number for outcome in outcomes if outcome.told.state == "failed"]
    recovered = sum(outcome.recovered for outcome in outcomes)
    counts = f"{recovered} recovered, {len(failed)} failed, {len(violated)} with violations"
    unmet = [outcome.number for outcome in outcomes if not any(one.hit for one in outcome.struck)]
    lines = [f"{len(outcomes)} rounds with seed {seed} in {seconds:.0f} s on {machine()}: {counts}"]
    if unmet:
        lines.append(f"  rounds {', '.join(map(str, unmet))}: no fault was met")
    by_error: dict[str, list[int]] = defaultdict(list)
    for outcome in outcomes:
        for task, text in outcome.said.items():
            by_error[f"{task}: {text[:160]}"].append(outcome.number)
    lines += [f"  rounds {', '.join(map(str, numbers))}: {error}" for error, numbers in sorted(by_error.items())]
    return "\n".join(lines)


def write(path: Path, outcomes: Sequence[Outcome], seed: int, seconds: float, notes: Sequence[str]) -> None:
    """Write everything as JSON."""
    content: dict[str, Any] = {
        "seed": seed,
        "machine": machine(),
        "seconds": round(seconds, 1),
        "rounds": len(outcomes),
        "recovered": sum(outcome.recovered for outcome in outcomes),
        "failed": sum(outcome.told.state == "failed" for outcome in outcomes),
        "violations": sum(bool(outcome.violations) for outcome in outcomes),
        "unmet": sum(not any(one.hit for one in outcome.struck) for outcome in outcomes),
        "notes": list(notes),
        "table": [asdict(row) for row in rows(outcomes)],
        "outcomes": [outcome.as_json() for outcome in outcomes],
    }
    files.write(path, json.dumps(content, indent=2) + "\n")
