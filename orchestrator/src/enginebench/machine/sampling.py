"""Samples taken by a thread at an interval, or less often where a sample costs much."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

LARGEST_SHARE = 0.1
"""Of the time, spent in sampling: gigabytes in small pages take 30 ms to walk, and threads in lockstep all wait."""


class Sampler(ABC):
    """Takes samples from entering to leaving its context, one at each end. What a sample raises between them ends the
    thread, not the caller."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=type(self).__name__)

    @abstractmethod
    def mark(self) -> object:
        """Take a sample now; also called from the thread."""

    def __enter__(self) -> Self:
        self.mark()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.mark()

    def _run(self) -> None:
        pause = self._interval_seconds
        while not self._stop.wait(pause):
            started = time.monotonic()
            self.mark()
            took = time.monotonic() - started
            pause = max(self._interval_seconds, took * (1 / LARGEST_SHARE - 1))
