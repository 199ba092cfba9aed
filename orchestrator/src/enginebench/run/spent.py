"""What a run has spent of its time budget: looked at between launches only, so that --resume decides as the run did."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Spent:
    """`ns`: from the end of the set-up to the end of the last launch. What was interrupted does not count."""

    clock: Callable[[], int] = time.perf_counter_ns
    ns: int = 0
    _since: int = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.clock()

    @property
    def seconds(self) -> float:
        return self.ns / 1e9

    def launched(self) -> int:
        """After a launch; returns `ns`."""
        now = self.clock()
        self.ns += now - self._since
        self._since = now
        return self.ns

    def replayed(self, ns: int) -> None:
        """After a launch that is in the journal."""
        self.ns, self._since = ns, self.clock()
