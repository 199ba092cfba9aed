"""Progress on stderr: a bar with the time left on a terminal, plain lines elsewhere.

Drawn only when something is said, never by a timer: nothing of ours runs while an engine is timed.
"""

from __future__ import annotations

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from enginebench.plain_text import for_terminal, printable


class ProgressBar:
    """Counts seconds of planned work, so that the time left is that of the work, not of the number of steps."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description:<58}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, left="")
        self._label = ""
        self._ends_at: float | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def expect(self, seconds: float) -> None:
        """The work still to come takes about this long."""
        self._ends_at = time.monotonic() + seconds

    def begin(self, label: str, done: int, total: int) -> None:
        """A launch (or another step) starts."""
        self._label = label
        self._bar.update(self._task, completed=done, total=total)
        if not self.console.is_terminal:
            print(printable(f"[{done + 1}/{total}] {label}{self._left()}"), file=sys.stderr, flush=True)
        else:
            self.say("")

    def say(self, what: str) -> None:
        """What is going on inside the step."""
        if self.console.is_terminal:
            text = printable(f"{self._label}  {what}")[:58]
            self._bar.update(self._task, description=text, left=self._left().strip(), refresh=True)

    def note(self, line: str) -> None:
        """A line that stays."""
        self.console.print(for_terminal(line), highlight=False, markup=False)

    def _left(self) -> str:
        if self._ends_at is None:
            return ""
        minutes, seconds = divmod(max(0, int(self._ends_at - time.monotonic())), 60)
        return f"  about {minutes}:{seconds:02d} left"
