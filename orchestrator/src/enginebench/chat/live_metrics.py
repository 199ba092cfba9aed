"""Speed of an answer while it comes, by the arrival of its ids here; the engine's own stamps come with its end."""

from __future__ import annotations

import time
from collections.abc import Callable


class LiveMetrics:
    """Begun when the question is sent."""

    def __init__(self, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock_ns = clock_ns
        self._begin_ns = clock_ns()
        self._first_ns = self._last_ns = 0
        self.n_tokens = 0

    def token(self) -> None:
        self._last_ns = self._clock_ns()
        self._first_ns = self._first_ns or self._last_ns
        self.n_tokens += 1

    @property
    def ttft_ns(self) -> int | None:
        return self._first_ns - self._begin_ns if self.n_tokens else None

    @property
    def decode_tps(self) -> float | None:
        """Of the tokens after the first."""
        passed_ns = self._last_ns - self._first_ns
        return (self.n_tokens - 1) / passed_ns * 1e9 if passed_ns > 0 else None
