"""The last row of the terminal while an answer streams above it (a scroll region, as package managers use one).

Between answers the line editor draws the same text as its toolbar.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

INTERVAL_SECONDS = 0.1
"""Drawn no more often: it costs what a token costs us, some 20 us."""
SAVE, RESTORE, CLEAR_ROW = "\x1b7", "\x1b8", "\x1b[2K"  # DECSC, DECRC, EL (ECMA-48; xterm control sequences)
FEW_ROWS = 4


class StatusLine:
    """Nothing where there is no terminal, or one that cannot move its cursor."""

    def __init__(self, out: TextIO, size: Callable[[], os.terminal_size] | None = None) -> None:
        """`size`: of the terminal, asked of itself: what LINES says in the environment may be of another one."""
        self._out = out
        self._size = size or (lambda: os.get_terminal_size(out.fileno()))
        self._rows = 0
        self._drawn = 0.0

    def __enter__(self) -> Self:
        usable = self._out.isatty() and os.environ.get("TERM") != "dumb"
        rows = self._size().lines if usable else 0
        if rows >= FEW_ROWS:
            # Away from the last row first: the cursor may stand in it, and terminals differ in where it is then put.
            self._out.write("\n\x1b[1A" + self._region(rows - 1))
            self._out.flush()
            self._rows = rows
        return self

    def show(self, text: str, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._rows and (at_once or now - self._drawn >= INTERVAL_SECONDS):
            self._drawn = now
            self._out.write(self._drawing(text))
            self._out.flush()

    def show_from_signal_handler(self, text: str) -> None:
        """Past the buffer of `out`, which may be in the middle of a write."""
        if self._rows:
            os.write(self._out.fileno(), self._drawing(text).encode())

    def _drawing(self, text: str) -> str:
        size, moved = self._size(), ""
        if size.lines != self._rows:
            self._rows, moved = size.lines, self._region(size.lines - 1)
        shown = text[: size.columns].ljust(size.columns)
        return f"{moved}{SAVE}\x1b[{self._rows};1H{CLEAR_ROW}\x1b[7m{shown}\x1b[0m{RESTORE}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rows:
            self._out.write(f"{SAVE}\x1b[{self._rows};1H{CLEAR_ROW}\x1b[r{RESTORE}")
            self._out.flush()
            self._rows = 0

    def _region(self, last_row: int) -> str:
        """Only rows up to this one scroll. Setting it moves the cursor (DECSTBM), hence the saving."""
        return f"{SAVE}\x1b[1;{last_row}r{RESTORE}"
