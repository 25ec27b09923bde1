"""One round: a DAG run, the faults it gets, the supervisor that starts again what has died, and what came of it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from demo.errors import DemoError
from demo.settings import DAG_ID
from tests.system.chaos.evidence import Evidence, Told, judge
from tests.system.chaos.plan import ANY, KILL
from tests.system.chaos.strikes import NotNowError, needs_of, prepare, wish_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.api import TaskState
    from tests.system.chaos.evidence import Witness
    from tests.system.chaos.plan import Fault
    from tests.system.chaos.stack import ChaosStack
    from tests.system.chaos.strikes import Strikes

ROUND_SECONDS = 180.0
# Until every service answers again after a round.
CALM_SECONDS = 30.0
GIVE_UP_SECONDS = 60.0
TICK_SECONDS = 0.15
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
    undo: Callable[[], None] | None = None
    undone: bool = False

    @property
    def step(self) -> str:
        """The task that it really met; a quick one may have been over by then, and another was met instead."""
        if self.when is None or self.fault.kind != KILL or self.fault.step in self.during:
            return self.fault.step
        return " + ".join(self.during) or "between two tasks"


@dataclass
class Outcome:
    """What came of a round.

    :param retries: tries beyond the first, of all tasks.
    :param by_itself: processes that ended though nobody killed them.
    :param said: the last error of each task that failed.
    :param new: what there is more than before.
    :param requests: method and path of all that Azure ML was asked for.
    """

    number: int
    struck: list[Struck]
    told: Told
    seconds: float = 0.0
    retries: int = 0
    dag_run_id: str = ""
    violations: list[str] = field(default_factory=list)
    by_itself: list[str] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)
    new: Evidence = field(default_factory=Evidence)
    requests: list[tuple[str, str]] = field(default_factory=list)

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
            "dag_run_id": self.dag_run_id,
            "faults": faults,
            "state": self.told.state,
            "seconds": round(self.seconds, 2),
            "retries": self.retries,
            "recovered": self.recovered,
            "violations": self.violations,
            "ended_by_itself": self.by_itself,
            "errors": self.said,
            "runs": self.new.runs,
            "models": self.new.models,
            "images": sorted(self.new.images),
        }


class Round:
    """Plays one round.

    :param faults: what goes wrong in it.
    """

    def __init__(
        self, stack: ChaosStack, strikes: Strikes, witness: Witness, number: int, faults: tuple[Fault, ...]
    ) -> None:
        self._stack = stack
        self._strikes = strikes
        self._witness = witness
        self._number = number
        self._struck = [Struck(fault) for fault in faults]
        self._due: dict[int, float] = {}
        self._by_itself: list[str] = []
        self._tasks: list[TaskState] = []
        self._begin = 0.0

    def play(self, before: Evidence) -> tuple[Outcome, Evidence]:
        """Trigger a DAG run, wait for its end, and look at what it left.

        :param before: what there was before.
        :return: the outcome, and what there is now.
        """
        needs = {needs_of(one.fault) for one in self._struck}
        prepare(self._stack, needs, self._number, self._witness.detach)
        # The harness' own questions, and the rounds before, are not the pipeline's.
        self._strikes.control("DELETE", "journal")
        dag_run_id = self._stack.api.trigger(DAG_ID)
        self._begin = time.monotonic()
        try:
            state = self._watch(dag_run_id)
            seconds = time.monotonic() - self._begin
        finally:
            self._undo(all_of_them=True)
        self._calm()
        self._note_hits()
        requests = self._strikes.control("GET", "journal")["requests"]
        after = self._witness.look()
        new = after.since(before)
        told = self._told(dag_run_id, state)
        said = self._errors(dag_run_id)
        if state not in OVER:
            after = self._give_up(dag_run_id)
        return Outcome(
            number=self._number,
            struck=self._struck,
            told=told,
            seconds=seconds,
            retries=sum(max(task.try_number - 1, 0) for task in self._tasks),
            dag_run_id=dag_run_id,
            violations=judge(told, new),
            by_itself=self._by_itself,
            said=said,
            new=new,
            requests=[(one["method"], one["path"]) for one in requests],
        ), after

    def _watch(self, dag_run_id: str) -> str:
        state = "queued"
        while state not in OVER and time.monotonic() - self._begin < ROUND_SECONDS:
            try:
                state, _ = self._stack.api.run_state(DAG_ID, dag_run_id)
                self._tasks = self._stack.api.tasks(DAG_ID, dag_run_id)
            except DemoError:
                # The API server is one of those that are killed.
                pass
            for index, one in enumerate(self._struck):
                self._strike(index, one)
            self._undo()
            self._supervise()
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
            one.undo = self._strikes.strike(one.fault)
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

    def _undo(self, *, all_of_them: bool = False) -> None:
        for one in self._struck:
            if one.undo is None or one.undone or one.when is None:
                continue
            if all_of_them or time.monotonic() - self._begin > one.when + one.fault.down:
                one.undo()
                one.undone = True

    def _supervise(self) -> None:
        """Start again what has ended by itself, as a supervisor does with every service."""
        if any(one.undo is not None and not one.undone for one in self._struck):
            return
        for name in self._stack.names():
            if not self._stack.runs(name):
                self._by_itself.append(name)
                self._stack.start_again(name)

    def _calm(self) -> None:
        """Wait until the API server and the stand-in answer again."""
        deadline = time.monotonic() + CALM_SECONDS
        while True:
            self._supervise()
            try:
                self._stack.api.run_state(DAG_ID, "~")
                self._strikes.control("GET", "faults")
            except NotNowError:
                pass
            except DemoError as error:
                if "does not answer" not in str(error):
                    return
            else:
                return
            if time.monotonic() > deadline:
                raise DemoError(f"Airflow or Azure ML does not answer {CALM_SECONDS:.0f} s after round {self._number}.")
            time.sleep(TICK_SECONDS)

    def _note_hits(self) -> None:
        waiting = self._strikes.control("GET", "faults")["faults"]
        self._strikes.control("DELETE", "faults")
        for one in self._struck:
            if one.fault.kind != KILL and one.when is not None:
                wish = wish_of(one.fault)
                left = [
                    fault["calls"]
                    for fault in waiting
                    if (fault["method"], fault["path"]) == (wish["method"], wish["path"])
                ]
                one.hit = sum(left) < one.fault.calls

    def _told(self, dag_run_id: str, state: str) -> Told:
        if state != "success":
            return Told(state)
        run, model, image = (
            self._stack.api.xcom(DAG_ID, dag_run_id, task)
            for task in ("poll_run", "register_model", "build_and_push_image")
        )
        return Told(state, run["run_id"], f"{model['name']}:{model['version']}", image["digest"])

    def _give_up(self, dag_run_id: str) -> Evidence:
        """End a DAG run that takes too long, so that the next round is not blamed for what it does."""
        self._stack.api._send("PATCH", f"/dags/{DAG_ID}/dagRuns/{dag_run_id}", {"state": "failed"})
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            tasks = self._stack.api.tasks(DAG_ID, dag_run_id)
            if not any(task.state in ACTIVE for task in tasks) and not self._strikes.a_task_runs():
                break
            time.sleep(TICK_SECONDS)
        return self._witness.look()

    def _errors(self, dag_run_id: str) -> dict[str, str]:
        self._tasks = self._stack.api.tasks(DAG_ID, dag_run_id)
        failed = [task for task in self._tasks if task.state == "failed"]
        return {task.task_id: self._last_error(dag_run_id, task) for task in failed}

    def _last_error(self, dag_run_id: str, task: TaskState) -> str:
        lines = self._stack.api.log(DAG_ID, dag_run_id, task)
        errors = [line.text for line in lines if line.level in {"error", "critical"}]
        if not errors:
            return "its log has no error"
        # The first line only says that the task failed.
        lines_of_it = errors[-1].splitlines()
        return " ".join(lines_of_it[1:] or lines_of_it)[:600]
