"""A thread that takes samples at an interval, or less often where a sample costs much."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

LARGEST_SHARE = 0.1
"""Of the time, spent in sampling: gigabytes in small pages take 30 ms to walk, and threads in lockstep all wait."""


class Sampling:
    """Calls `take` from entering to leaving the context. What it raises ends the thread, not the caller."""

    def __init__(self, take: Callable[[], object], interval_seconds: float, name: str) -> None:
        self._take = take
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause = self._interval_seconds
        while not self._stop.wait(pause):
            started = time.monotonic()
            self._take()
            took = time.monotonic() - started
            pause = max(self._interval_seconds, took * (1 / LARGEST_SHARE - 1))
