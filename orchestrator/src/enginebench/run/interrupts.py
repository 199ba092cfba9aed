"""Ctrl-C, SIGTERM and SIGHUP while a run goes on: the first ends what is measured now, a second one ends everything.

The first raises KeyboardInterrupt where the program is; while a record is written, right after that. A second one kills
what was started and leaves at once, whatever is going on. What a parent ignores for us (nohup) stays ignored.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_SECONDS = 0.2
"""A terminal that is closed sends SIGHUP, and so does whoever started us: within this time they are one."""

TOLD = b"\nenginebench: interrupted, ending what runs; once more ends everything at once\n"


class Interrupts:
    """Use as a context manager. `at_once`: called before a second signal ends the process."""

    def __init__(self, at_once: Callable[[], None] = lambda: None) -> None:
        self.number: int | None = None
        """Of the first signal."""
        self._at_once = at_once
        self._since = 0.0
        self._held = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """As a shell tells it of a process that a signal ended."""
        return 128 + (self.number or signal.SIGINT)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is asked meanwhile is done afterwards."""
        self.hold()
        try:
            yield
        finally:
            self._held = False
        if self.number is not None:
            raise KeyboardInterrupt

    def hold(self) -> None:
        """From now on a first signal changes nothing: what is left to do is done in a moment."""
        self._held = True

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, before in self._before.items():
            if before is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
            with suppress(OSError):
                os.write(2, TOLD)  # no print: a signal may come in the middle of one
            if not self._held:
                raise KeyboardInterrupt
        elif now - self._since > SAME_SECONDS:
            try:
                self._at_once()
            finally:
                os._exit(128 + number)
