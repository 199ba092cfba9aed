"""Memory of an engine over the course of a launch, as a trace in Chrome's format, which Perfetto opens.

The format: "Trace Event Format" of Google's Catapult: counters ("C") and complete events ("X"), microseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .memory import INTERVAL_SECONDS, read_tree
from .sampling import Sampler


class MemoryTimeline(Sampler):
    """Samples PSS over the process tree from entering to leaving the context, and knows what was asked when."""

    def __init__(self, pid: int, interval_seconds: float = INTERVAL_SECONDS) -> None:
        super().__init__(interval_seconds)
        self._pid = pid
        self._events: list[dict[str, Any]] = []

    def mark(self) -> None:
        found = read_tree(self._pid)
        if found.n_processes:
            parts = {"anonymous": found.anon_bytes, "file": found.file_bytes}
            self._events.append({"ph": "C", "pid": 0, "name": "memory (PSS)", "ts": _now_us(), "args": parts})

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """What is asked of the engine meanwhile."""
        started = _now_us()
        try:
            yield
        finally:
            event = {"ph": "X", "cat": "request", "pid": 0, "tid": 0, "name": name}
            self._events.append({**event, "ts": started, "dur": _now_us() - started})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"traceEvents": self._events, "displayTimeUnit": "ms"}))


def _now_us() -> float:
    return time.perf_counter_ns() / 1e3
