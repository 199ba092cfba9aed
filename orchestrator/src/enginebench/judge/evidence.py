"""What the launches of one case can testify to: which of them, which of their requests, and why the others do not."""

from __future__ import annotations

import collections
import statistics
from array import array
from collections.abc import Callable, Iterable, Sequence

from enginebench_protocol.timing import RequestTiming

from enginebench.store.record import Launch, LoadedFacts, MemoryReading, Request

NOTHING_FREE = "no measured request is free of doubt"
ONLY_NOISE = "no launch without noise"


class Evidence:
    """The launches of one case, sorted by what they can testify to."""

    def __init__(self, launches: Sequence[Launch]) -> None:
        self.checks = [launch for launch in launches if launch.kind == "check"]
        self.timed = [launch for launch in launches if launch.kind == "timed"]
        self.good = [launch for launch in launches if launch.counts]
        self.doubtful = [launch for launch in self.timed if launch.ok and launch.doubts]

    @property
    def loaded(self) -> LoadedFacts | None:
        return next((launch.loaded for launch in [*self.good, *self.checks, *self.timed] if launch.loaded), None)

    @property
    def memory(self) -> MemoryReading | None:
        return next((launch.memory for launch in reversed(self.checks) if launch.memory), None)

    @property
    def cautions(self) -> list[str]:
        """What was left out of the averages, counted."""
        failures = [launch.failure.reason for launch in self.timed if launch.failure is not None]
        requests = [request for launch in self.good for request in launch.measured]
        doubtful = [request for request in requests if request.doubts]
        cautions = []
        if self.doubtful:
            causes = _tally(_cause(doubt) for launch in self.doubtful for doubt in launch.doubts)
            cautions.append(f"{len(self.doubtful)} of {len(self.timed)} timed launches excluded for noise ({causes})")
        if failures:
            cautions.append(f"{len(failures)} of {len(self.timed)} timed launches failed ({_tally(failures)})")
        if doubtful:
            causes = _tally(_cause(doubt) for request in doubtful for doubt in request.doubts)
            cautions.append(f"{len(doubtful)} of {len(requests)} measured requests excluded ({causes})")
        return cautions

    @property
    def lack(self) -> str:
        """Why nothing could be averaged."""
        if not self.timed:
            return "no timed launch"
        if not self.good:
            return f"{ONLY_NOISE}: {self.cautions[0]}" if self.doubtful else "no timed launch ended well"
        return "no valid measured request"

    @property
    def excluded_share(self) -> float:
        """Of all measured requests of launches that ended well: those that no average uses."""
        sound = sum(len(valid_requests(launch)) for launch in self.good)
        measured = sum(len(launch.measured) for launch in (*self.good, *self.doubtful))
        return (measured - sound) / measured if measured else 0.0


def _cause(doubt: str) -> str:
    """A doubt without its number, so that equal causes are counted together."""
    words = doubt.partition(":")[0].split()
    return " ".join(word for word in words if not word[:1].isdigit() and word not in ("by", "ms"))


def _tally(names: Iterable[str]) -> str:
    counts = collections.Counter(names)
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items()))


def valid_requests(launch: Launch) -> list[Request]:
    """None of a launch that is in doubt as a whole."""
    return [] if launch.doubts else [request for request in launch.measured if not request.doubts]


def timing(request: Request) -> RequestTiming:
    return RequestTiming(request.n_prompt, 0, array("q", request.t_token_ns))


def median_of(duration: Callable[[RequestTiming], float | None]) -> Callable[[Launch], float | None]:
    """Launch → the median of `duration` over its valid measured requests."""

    def of_launch(launch: Launch) -> float | None:
        found = [duration(timing(request)) for request in valid_requests(launch)]
        values = [value for value in found if value is not None]
        return float(statistics.median(values)) if values else None

    return of_launch


def spoiled(launch: Launch) -> str | None:
    """Why nothing of a launch that ended well can be averaged; None if something can."""
    if launch.doubts:
        return launch.doubts[0]
    return None if not launch.ok or valid_requests(launch) else NOTHING_FREE
