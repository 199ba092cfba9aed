"""Answers side by side on a wide terminal: each column fills while its engine answers."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

NARROWEST = 40
"""Characters of a column that can still be read."""
INTERVAL_SECONDS = 0.125


def wide_enough(console: Console, count: int) -> bool:
    return console.is_terminal and console.width >= count * (NARROWEST + 3)


class Columns:
    """While it grows only the end of each answer is drawn; when it is left, the whole of all."""

    def __init__(self, console: Console, headings: list[str]) -> None:
        self._console = console
        self._headings = headings
        self._texts = ["" for _ in headings]
        self._feet = ["" for _ in headings]
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def add(self, column: int, text: str) -> None:
        self._texts[column] += text
        self._draw()

    def foot(self, column: int, text: str) -> None:
        """What stands below an answer."""
        self._feet[column] = text
        self._draw(at_once=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._console.print(self._table(None))

    def _draw(self, at_once: bool = False) -> None:
        if at_once or time.monotonic() - self._drawn >= INTERVAL_SECONDS:
            self._live.update(self._table(max(1, self._console.height - 6)), refresh=True)
            self._drawn = time.monotonic()

    def _table(self, rows: int | None) -> Table:
        """`rows`: so many of the last rows of each answer; None: all."""
        width = (self._console.width - 1) // len(self._headings) - 3
        table = Table(show_footer=any(self._feet), expand=True)
        for heading, foot in zip(self._headings, self._feet, strict=True):
            table.add_column(Text(heading), Text(foot), width=width, overflow="fold")
        table.add_row(*(self._end(text, width, rows) for text in self._texts))
        return table

    def _end(self, text: str, width: int, rows: int | None) -> Text:
        lines = Text(text).wrap(self._console, width, overflow="fold")
        return Text("\n").join(lines if rows is None else lines[-rows:])
