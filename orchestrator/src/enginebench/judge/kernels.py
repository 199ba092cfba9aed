"""Where the time of a profiled request went: its kernels by total time, from a trace in Chrome's format.

Events of the category "kernel" where there are any (each is one kernel on its device); else operators on the processor
("cpu_op") by the time that none of the operators inside them took.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginebench.errors import UsageError

LEFT_OUT = ("Torch-Compiled Region", "## Call CompiledFxGraph")
"""Frames around kernels, not work of their own."""


@dataclass(frozen=True)
class Kernel:
    """`share` is of the time of all kernels."""

    name: str
    calls: int
    total_ns: float
    share: float


def kernels_of(trace: Path) -> list[Kernel]:
    """The longest first. Raises UsageError for a file that is no trace."""
    try:
        events = [event for event in json.loads(trace.read_bytes())["traceEvents"] if event.get("ph") == "X"]
        return by_time(events)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{trace.name} is no trace in Chrome's format: {type(error).__name__}: {error}") from None


def by_time(events: Sequence[dict[str, Any]]) -> list[Kernel]:
    """Of complete events: name, cat, pid, tid, and ts and dur in microseconds."""
    device = [(event["name"], event["dur"]) for event in events if event.get("cat") == "kernel"]
    took: dict[str, list[float]] = defaultdict(list)
    for name, microseconds in device or own_times(event for event in events if event.get("cat") == "cpu_op"):
        took[name].append(microseconds)
    whole = sum(map(sum, took.values()))
    found = [Kernel(name, len(each), sum(each) * 1e3, sum(each) / whole) for name, each in took.items() if sum(each)]
    return sorted(found, key=lambda kernel: -kernel.total_ns)


def own_times(events: Iterable[dict[str, Any]]) -> list[tuple[str, float]]:
    """(name, microseconds that no event inside it took) of nested events, thread by thread."""
    of_thread: dict[tuple[Any, Any], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        of_thread[event["pid"], event["tid"]].append(event)
    own: list[tuple[str, float]] = []
    for each in of_thread.values():
        own += _own_times(sorted(each, key=lambda event: (event["ts"], -event["dur"])))
    return [(name, took) for name, took in own if not name.startswith(LEFT_OUT)]


def _own_times(ordered: Iterable[dict[str, Any]]) -> list[tuple[str, float]]:
    done: list[tuple[str, float]] = []
    open_: list[list[Any]] = []  # name, end, own time

    def close(until: float) -> None:
        while open_ and open_[-1][1] <= until:
            name, _, own = open_.pop()
            done.append((name, max(0.0, own)))

    for event in ordered:
        close(event["ts"])
        if open_:
            open_[-1][2] -= event["dur"]
        open_.append([event["name"], event["ts"] + event["dur"], event["dur"]])
    close(float("inf"))
    return done
