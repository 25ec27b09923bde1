"""Asks for the state of many runs at once, for all the triggers that wait for one of them.

A triggerer may wait for a thousand runs. One hub for each connection and experiment asks on behalf of all of them: one list of the
active runs, and one more question for those that are not in it. What asks is synchronous: all of it happens in threads, whose number is
bounded, and never on the triggerer's event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from edge_training.exceptions import ServiceError
from edge_training.triggers.look import SharedLook, Sighting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from edge_training.triggers.look import Answer, RunSource

GATHER_SECONDS = 0.2
"""How long a hub waits for further newcomers: a triggerer that starts gets its triggers one after the other."""
AT_ONCE = 25
"""How many waiting triggers are told before the event loop gets a turn."""

Result = TypeVar("Result")


class Pace:
    """Appointments at equal intervals, counted from the first: what takes long does not shift those that follow.

    :param interval: seconds.
    """

    def __init__(self, interval: float) -> None:
        self._interval = max(interval, 0.001)
        self._following = time.monotonic()

    def change(self, interval: float) -> None:
        """Make the appointments after the next one at another interval.

        :param interval: seconds.
        """
        self._interval = max(interval, 0.001)

    def left(self) -> float:
        """Return the seconds until the next appointment, 0 when it is due."""
        return max(0.0, self._following - time.monotonic())

    def is_due(self) -> bool:
        """Tell whether an appointment is due, and make the next one; one that was missed is left out."""
        now = time.monotonic()
        due = now >= self._following
        if due:
            self._following += self._interval * (1 + (now - self._following) // self._interval)
        return due


class Watch:
    """One trigger's view of its run.

    :param interval: seconds between two looks that the trigger wants.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.answer: Answer | None = None
        self._told = asyncio.Event()
        self._traceback: TracebackType | None = None

    def tell(self, answer: Answer) -> None:
        """Take an answer; the trigger is woken when there is something new in it."""
        if _gist(answer) != _gist(self.answer):
            self._told.set()
        self.answer = answer
        self._traceback = answer.__traceback__ if isinstance(answer, Exception) else None

    async def next(self, seconds: float) -> Sighting:
        """Return the run when something is new about it, else as it was last seen when the time is over.

        :param seconds: how long to wait; the first answer is waited for as long as it takes.
        :raises ServiceError: when the last look failed.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._told.wait(), None if self.answer is None else max(0.0, seconds))
        self._told.clear()
        if isinstance(self.answer, Sighting):
            return self.answer
        error = self.answer or RuntimeError("A watch was woken without an answer.")
        # Many raise the same error; each would make its traceback longer for all the others.
        raise error.with_traceback(self._traceback)


def _gist(answer: Answer | None) -> Any:
    """Return what makes an answer another one for the trigger that waits."""
    if isinstance(answer, Sighting):
        return answer.run.status.state, answer.ahead
    return answer if answer is None else type(answer)


class RunHub:
    """Looks at intervals at all the runs that somebody waits for, and tells each who waits for it.

    :param make_source: makes whom to ask; called in a thread, for it may import an SDK.
    :param experiment: the experiment of all the runs, or ``""``.
    """

    def __init__(self, make_source: Callable[[], RunSource], experiment: str) -> None:
        self._make_source = make_source
        self._experiment = experiment
        self._look: SharedLook | None = None
        self._making = threading.Lock()
        self._watches: dict[str, list[Watch]] = defaultdict(list)
        self._newcomer = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def shared_look(self) -> SharedLook:
        """Return what looks, made by the first who asks. To be called in a thread."""
        with self._making:
            if self._look is None:
                with collections_put_off():
                    source = self._make_source()
                self._look = SharedLook(source, self._experiment)
            return self._look

    @contextmanager
    def watch(self, run_id: str, interval: float) -> Iterator[Watch]:
        """Wait for a run together with all the others.

        :param run_id: the run's id.
        :param interval: seconds between two looks; the shortest that somebody wants counts for all.
        """
        watch = Watch(interval)
        self._watches[run_id].append(watch)
        self._newcomer.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._go_on())
        try:
            yield watch
        finally:
            self._watches[run_id].remove(watch)
            if not self._watches[run_id]:
                del self._watches[run_id]
            if not self._watches and self._task is not None:
                self._task.cancel()
                self._task = None
                self._look = None  # the connection may be another one when somebody waits again

    async def _go_on(self) -> None:
        pace = Pace(self._interval())
        while True:
            if self._newcomer.is_set():
                await asyncio.sleep(GATHER_SECONDS)
                self._newcomer.clear()
                pace.change(self._interval())
            pace.is_due()
            await self._look_once()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._newcomer.wait(), pace.left())

    def answered(self) -> int:
        """Return how many wait who have heard of their run at least once."""
        return sum(watch.answer is not None for watches in self._watches.values() for watch in watches)

    def _interval(self) -> float:
        return min(watch.interval for watches in self._watches.values() for watch in watches)

    async def _look_once(self) -> None:
        run_ids = list(self._watches)
        try:
            answers = await in_thread(LOOKS, self._ask, run_ids)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is, or waits for ever
            answers = dict.fromkeys(run_ids, error)
            if not (isinstance(error, ServiceError) and error.retryable):
                self._look = None  # a person may correct the connection, which only a new hook reads
        for number, (run_id, answer) in enumerate(answers.items(), 1):
            for watch in self._watches.get(run_id, ()):
                watch.tell(answer)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    def _ask(self, run_ids: Sequence[str]) -> dict[str, Answer]:
        return self.shared_look().look(run_ids)


@contextmanager
def collections_put_off() -> Iterator[None]:
    """Let the garbage collector wait while an SDK is imported, and leave what is there then alone for good.

    An SDK is some hundred thousand objects that live as long as the process. Each full collection would go through all of them, and no
    thread of the process does anything meanwhile: 0.3 s in which no trigger gets its turn. The first time in a process counts.
    """
    global _put_off
    with _putting_off:
        if _put_off or not gc.isenabled():
            yield
            return
        gc.disable()
        try:
            yield
        finally:
            gc.freeze()
            gc.enable()
        _put_off = True


_put_off = False
_putting_off = threading.Lock()

LOOKS = ThreadPoolExecutor(4, thread_name_prefix="edge-training-looks")
"""States are asked for here, so that slow logs cannot delay them."""
LOGS = ThreadPoolExecutor(8, thread_name_prefix="edge-training-logs")
ENDS = ThreadPoolExecutor(4, thread_name_prefix="edge-training-ends")
"""What has to be done when a run has ended, before anybody hears of it; it does not queue behind the logs of others."""

_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], RunHub]] = WeakKeyDictionary()


def hub_of(conn_id: str, experiment: str, make_source: Callable[[], RunSource]) -> RunHub:
    """Return the hub of this event loop for the runs of an experiment; everybody who asks gets the same.

    :param conn_id: the workspace's connection.
    :param experiment: the experiment.
    :param make_source: makes whom the hub asks, when there is no hub yet.
    """
    hubs = _hubs.setdefault(asyncio.get_running_loop(), {})
    return hubs.setdefault((conn_id, experiment), RunHub(make_source, experiment))


async def in_thread(pool: ThreadPoolExecutor, call: Callable[..., Result], *arguments: Any) -> Result:
    """Call something in a thread of a pool, with the context of the caller: Airflow finds the task's log by it.

    :param pool: one of the pools of this module.
    :param call: what blocks.
    """
    context = contextvars.copy_context()
    work = partial(context.run, call, *arguments)
    return await asyncio.get_running_loop().run_in_executor(pool, work)
