"""The supervisor of a stack, as systemd would be: starts again what has died, and what is kept down for a while when its time has come."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from tests.system.chaos.stack import ChaosStack

TICK_SECONDS = 0.1


class Keeper:
    """Looks after the processes of a stack in a thread of its own; use it in a ``with`` statement.

    :param stack: what it looks after.

    :ivar by_itself: moment and name of each process that ended though nobody killed it.
    :ivar error: what ended the keeper itself, if anything did.
    """

    def __init__(self, stack: ChaosStack) -> None:
        self._stack = stack
        self._back_at: dict[str, float] = {}
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="keeper")
        self.by_itself: list[tuple[float, str]] = []
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what is down stays down."""
        self._end.set()
        self._thread.join()

    def kill(self, name: str, seconds: float) -> None:
        """Kill a process, and start it again after a while.

        :param name: the process.
        :param seconds: how long it stays down.
        """
        with self._lock:
            self._back_at[name] = max(self._back_at.get(name, 0.0), time.monotonic() + seconds)
            self._stack.kill(name)

    def later(self, seconds: float, undo: Callable[[], None]) -> None:
        """Do something after a while.

        :param seconds: after how long.
        :param undo: what is done.
        """
        with self._lock:
            self._later.append((time.monotonic() + seconds, undo))

    def _keep(self) -> None:
        try:
            while not self._end.wait(TICK_SECONDS):
                self._look()
            for _, undo in self._later:
                undo()
        except Exception as error:  # noqa: BLE001 - whoever plays the rounds raises it
            self.error = error

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [undo for moment, undo in self._later if moment <= now]
            self._later = [one for one in self._later if one[0] > now]
        for undo in due:
            undo()
        for name in self._stack.names():
            with self._lock:
                if self._stack.runs(name) or self._back_at.get(name, 0.0) > now:
                    continue
                was_killed = self._back_at.pop(name, None) is not None
            if not was_killed:
                self.by_itself.append((now, name))
            self._stack.start_again(name)
