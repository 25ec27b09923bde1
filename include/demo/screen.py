"""What the demo prints: colours and a moving line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.status import Status


class Screen:
    """Prints lines with the time since the start before them.

    :param console: where to; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._start = time.monotonic()
        self._moving: Status | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def say(self, text: str, style: str = "") -> None:
        """Print one line after the time; further lines of the text are indented below it.

        :param text: the line.
        :param style: one of rich's styles, such as ``"green"``.
        """
        minutes, seconds = divmod(int(self.seconds), 60)
        first, *others = text.splitlines() or [""]
        self._console.print(Text.assemble((f"{minutes:2d}:{seconds:02d}  ", "dim"), (first, style)))
        for line in others:
            self._console.print(Text(" " * 7 + line, style))

    def table(self, title: str, rows: Iterable[tuple[str, str]]) -> None:
        """Print a heading and lines of a name and a value."""
        self._console.print()
        self._console.print(Text(title, "bold"))
        for name, value in rows:
            self._console.print(Text.assemble("  ", (f"{name:<22}", "cyan"), value))

    def now(self, text: str) -> None:
        """Show what is going on; on a terminal only, in a line that the next one replaces."""
        if not self._console.is_terminal:
            return
        if self._moving is None:
            self._moving = self._console.status(text)
            self._moving.start()
        else:
            self._moving.update(text)

    def still(self) -> None:
        """Take the moving line away."""
        if self._moving is not None:
            self._moving.stop()
            self._moving = None
