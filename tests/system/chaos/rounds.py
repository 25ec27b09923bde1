"""One round: a DAG run in its lane, the faults it gets, and what came of it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from demo.errors import DemoError
from tests.system.chaos.evidence import Evidence, Told, Witness, judge
from tests.system.chaos.plan import ANY, KILL
from tests.system.chaos.strikes import NotNowError, needs_of, prepare
from tests.system.chaos.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.api import TaskState
    from tests.system.chaos.lanes import Lane
    from tests.system.chaos.plan import Fault
    from tests.system.chaos.stack import ChaosStack
    from tests.system.chaos.strikes import Strikes

Answer = TypeVar("Answer")
# How the API's client says that nobody answers, or that the server could not.
PASSING = ("does not answer", " with 500", " with 503", "refused the login")
ROUND_SECONDS = 300.0
# Until a service answers again that another lane has killed.
CALM_SECONDS = 60.0
GIVE_UP_SECONDS = 60.0
TICK_SECONDS = 0.1
OVER = {"success", "failed"}
STARTED = {"queued", "running", "deferred", "success", "failed", "up_for_retry", "restarting"}
ACTIVE = {"queued", "running", "deferred", "up_for_retry", "scheduled"}


@dataclass
class Struck:
    """A fault, and what became of it.

    :param when: seconds after the round's start, or ``None`` when it was never brought about.
    :param during: the tasks that were active then.
    :param hit: whether it had an effect: a call that failed, a process that was there.
    """

    fault: Fault
    when: float | None = None
    during: tuple[str, ...] = ()
    hit: bool = False

    @property
    def step(self) -> str:
        """The task that it really met; a quick one may have been over by then, and another was met instead."""
        if self.when is None or self.fault.kind != KILL or self.fault.step in self.during:
            return self.fault.step
        return " + ".join(self.during) or "between two tasks"


@dataclass
class Outcome:
    """What came of a round.

    :param lane: where it was played.
    :param retries: tries beyond the first, of all tasks.
    :param said: the last error of each task that failed.
    :param new: what there is more than before.
    """

    number: int
    struck: list[Struck]
    told: Told
    lane: str = ""
    seconds: float = 0.0
    retries: int = 0
    dag_run_id: str = ""
    violations: list[str] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)
    new: Evidence = field(default_factory=Evidence)

    @property
    def recovered(self) -> bool:
        """Whether the DAG run succeeded, and nothing is there twice or left behind."""
        return not self.violations

    def as_json(self) -> dict[str, Any]:
        """Return the outcome for a file."""
        faults = [
            {
                **asdict(one.fault),
                "name": one.fault.name,
                "met": one.step,
                "when": one.when,
                "during": one.during,
                "hit": one.hit,
            }
            for one in self.struck
        ]
        return {
            "round": self.number,
            "lane": self.lane,
            "dag_run_id": self.dag_run_id,
            "faults": faults,
            "state": self.told.state,
            "seconds": round(self.seconds, 2),
            "retries": self.retries,
            "recovered": self.recovered,
            "violations": self.violations,
            "errors": self.said,
            "runs": self.new.runs,
            "models": self.new.models,
            "images": sorted(self.new.images),
        }


class Player:
    """Plays rounds in one lane, one after the other, in a thread of its own.

    :param stack: everything.
    :param lane: the lane.
    :param strikes: bring the faults about.
    """

    def __init__(self, stack: ChaosStack, lane: Lane, strikes: Strikes) -> None:
        self.api = stack.new_api()
        self.lane = lane
        self.strikes = strikes
        self.witness = Witness(stack, lane)
        self.watch = Watch(stack.settings)
        self.before = Evidence()

    def play(self, number: int, faults: tuple[Fault, ...]) -> Outcome:
        """Play one round.

        :param number: the round's.
        :param faults: what goes wrong in it.
        """
        return Round(self, number, faults).play()


class Round:
    """Plays one round.

    :param player: who plays it.
    :param faults: what goes wrong in it.
    """

    def __init__(self, player: Player, number: int, faults: tuple[Fault, ...]) -> None:
        self._api = player.api
        self._dag_id = player.lane.dag_id
        self._player = player
        self._strikes = player.strikes
        self._number = number
        self._struck = [Struck(fault) for fault in faults]
        self._due: dict[int, float] = {}
        self._tasks: list[TaskState] = []
        self._begin = 0.0

    def play(self) -> Outcome:
        """Trigger a DAG run, wait for its end, and look at what it left."""
        player = self._player
        needs = {needs_of(one.fault) for one in self._struck}
        prepare(player.lane, needs, self._number, player.witness.detach)
        dag_run_id = _patiently(self._trigger)
        self._begin = time.monotonic()
        state = self._watch(dag_run_id)
        seconds = time.monotonic() - self._begin
        self._note_hits()
        after = player.witness.look(dag_run_id)
        told = _patiently(lambda: self._told(dag_run_id, state))
        outcome = Outcome(
            number=self._number,
            struck=self._struck,
            told=told,
            lane=player.lane.name,
            seconds=seconds,
            dag_run_id=dag_run_id,
            said=_patiently(lambda: self._errors(dag_run_id)),
            new=after.since(player.before),
        )
        outcome.retries = sum(max(task.try_number - 1, 0) for task in self._tasks)
        outcome.violations = judge(told, outcome.new)
        if state not in OVER:
            self._give_up(dag_run_id)
            after = player.witness.look(dag_run_id)
        player.before = after
        return outcome

    def _trigger(self) -> str:
        """Start a DAG run of a name that is known before, so that it is one DAG run also when the answer is lost."""
        dag_run_id = f"chaos_{self._number}"
        self._api._send("PATCH", f"/dags/{self._dag_id}", {"is_paused": False})
        try:
            self._api._send("POST", f"/dags/{self._dag_id}/dagRuns", {"logical_date": None, "dag_run_id": dag_run_id})
        except DemoError as error:
            if " with 409" not in str(error):
                raise
        return dag_run_id

    def _watch(self, dag_run_id: str) -> str:
        state = "queued"
        while state not in OVER and time.monotonic() - self._begin < ROUND_SECONDS:
            seen = self._player.watch.look(self._dag_id, dag_run_id)
            state, self._tasks = seen.state, seen.tasks
            for index, one in enumerate(self._struck):
                self._strike(index, one)
            time.sleep(TICK_SECONDS)
        return state

    def _strike(self, index: int, one: Struck) -> None:
        """Bring a fault about when its moment has come."""
        if one.when is not None:
            return
        if index not in self._due:
            if not self._reached(one.fault):
                return
            self._due[index] = time.monotonic() + one.fault.delay
        if time.monotonic() < self._due[index]:
            return
        try:
            self._strikes.strike(one.fault)
        except NotNowError:
            return
        one.when = round(time.monotonic() - self._begin, 2)
        one.during = tuple(sorted(task.task_id for task in self._tasks if task.state in ACTIVE))
        one.hit = one.fault.kind == KILL

    def _reached(self, fault: Fault) -> bool:
        if fault.step == ANY:
            return True
        states = {task.task_id: task.state for task in self._tasks}
        # A call has to be waited for before the task makes it, so as soon as Airflow thinks of the task.
        wanted = STARTED if fault.kind == KILL else STARTED | {"scheduled"}
        return states.get(fault.step, "") in wanted

    def _note_hits(self) -> None:
        for one in self._struck:
            if one.fault.kind != KILL and one.when is not None:
                one.hit = _patiently(partial(self._strikes.met, one.fault))

    def _told(self, dag_run_id: str, state: str) -> Told:
        if state != "success":
            return Told(state)
        try:
            run, model, image = (
                self._api.xcom(self._dag_id, dag_run_id, task)
                for task in ("poll_run", "register_model", "build_and_push_image")
            )
        except DemoError as error:
            if "handed on nothing" not in str(error):
                raise
            return Told(state)  # which names nothing that there is, and is judged so
        return Told(state, run["run_id"], f"{model['name']}:{model['version']}", image["digest"])

    def _give_up(self, dag_run_id: str) -> None:
        """End a DAG run that takes too long, so that the next round is not blamed for what it does."""
        path = f"/dags/{self._dag_id}/dagRuns/{dag_run_id}"
        _patiently(lambda: self._api._send("PATCH", path, {"state": "failed"}))
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            tasks = _patiently(lambda: self._api.tasks(self._dag_id, dag_run_id))
            if not any(task.state in ACTIVE for task in tasks):
                return
            time.sleep(TICK_SECONDS)

    def _errors(self, dag_run_id: str) -> dict[str, str]:
        self._tasks = self._api.tasks(self._dag_id, dag_run_id)
        failed = [task for task in self._tasks if task.state == "failed"]
        return {task.task_id: self._last_error(dag_run_id, task) for task in failed}

    def _last_error(self, dag_run_id: str, task: TaskState) -> str:
        lines = self._api.log(self._dag_id, dag_run_id, task)
        errors = [line.text for line in lines if line.level in {"error", "critical"}]
        if not errors:
            return "its log has no error"
        # The first line only says that the task failed.
        lines_of_it = errors[-1].splitlines()
        return " ".join(lines_of_it[1:] or lines_of_it)[:600]


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask until there is an answer: another lane may have killed who is asked.

    :raises DemoError: when there is none for too long, or another answer than hoped for.
    """
    deadline = time.monotonic() + CALM_SECONDS
    while True:
        try:
            return ask()
        except (NotNowError, DemoError) as error:
            passing = isinstance(error, NotNowError) or any(word in str(error) for word in PASSING)
            if not passing or time.monotonic() > deadline:
                raise
        time.sleep(TICK_SECONDS)
