"""The energy pass: one launch of its own in which an engine first idles, then only prefills, then answers in full.

Each window is at least 10 s long and begins and ends between requests: a counter that is refreshed every 100 ms is off
by 1 % at most. No time of this launch counts as speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from enginebench.machine.energy import Meter
from enginebench.store.record import EnergyReading, EnergyWindow

WINDOW_SECONDS = 10.0
SETTLE_SECONDS = 2.0
"""After the first request, for clocks to fall before idle power is read."""
IDLE_STEP_SECONDS = 1.0
"""Between two readings while nothing is asked: no counter wraps around in it."""
WARMUP_REQUESTS = 2

Ask = Callable[[int, int], None]
"""ask(iteration, tokens to generate): send one request and wait for its end."""


@dataclass(frozen=True)
class Clock:
    """The time, for tests to replace."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def measure(
    meter: Meter, ask: Ask, n_sent: int, n_gen: int, window_seconds: float = WINDOW_SECONDS, clock: Clock | None = None
) -> EnergyReading:
    """`n_sent`: tokens of each prompt. Prompts differ from request to request, as in a timed launch."""
    pass_ = _Pass(meter, ask, window_seconds, clock or Clock())
    pass_.requests(WARMUP_REQUESTS, n_gen)
    return EnergyReading(
        counters=meter.names,
        n_sent=n_sent,
        n_gen=n_gen,
        idle=pass_.idle(),
        prefill=pass_.window(1),
        full=pass_.window(n_gen) if n_gen > 1 else None,
    )


class _Pass:
    """The requests of one launch, numbered through."""

    def __init__(self, meter: Meter, ask: Ask, window_seconds: float, clock: Clock) -> None:
        self._meter, self._ask, self._seconds, self._clock = meter, ask, window_seconds, clock
        self._n_asked = 0

    def requests(self, count: int, n_gen: int) -> None:
        for _ in range(count):
            self._ask(self._n_asked, n_gen)
            self._n_asked += 1

    def idle(self) -> EnergyWindow:
        self._clock.sleep(SETTLE_SECONDS)
        started, before = self._clock.now(), self._meter.read_j()
        while self._clock.now() - started < self._seconds:
            self._clock.sleep(IDLE_STEP_SECONDS)
            self._meter.read_j()
        return self._window(started, before, 0)

    def window(self, n_gen: int) -> EnergyWindow:
        """As many requests as it takes; the counters are read between them, before any can wrap around."""
        started, before, first = self._clock.now(), self._meter.read_j(), self._n_asked
        while self._clock.now() - started < self._seconds:
            self.requests(1, n_gen)
            self._meter.read_j()
        return self._window(started, before, self._n_asked - first)

    def _window(self, started: float, before: dict[str, float], n_requests: int) -> EnergyWindow:
        after = self._meter.read_j()
        seconds = self._clock.now() - started
        joules = {name: after[name] - before[name] for name in self._meter.names}
        return EnergyWindow(seconds=seconds, joules=joules, n_requests=n_requests)
