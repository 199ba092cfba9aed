"""One request under tinygrad's own profiler, written as a trace in Chrome's format, which Perfetto opens.

A graph has time stamps around its kernels only if it was captured under PROFILE, so the graphs are captured again; the
kernels are those compiled before. Left out: prefill and decode themselves (graphs.py).
"""

from __future__ import annotations

import gc
import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tinygrad import Context, Device
from tinygrad.device import Compiled, ProfileGraphEvent
from tinygrad.helpers import ProfileRangeEvent, ansistrip, cpu_events, perf_counter_us

from engine_tinygrad.graphs import Graphs


class NothingRecorded(Exception):
    """The graphs of this device put no time stamps around their kernels."""


def traced(graphs: Graphs, prompt: array[int], n_gen: int, folder: Path) -> dict[str, Path]:
    """Name of the file → where it was written. Kernels have the category "kernel". Raises NothingRecorded."""
    with Context(PROFILE=1):
        again = Graphs(graphs.llama, graphs.chunk)
        again.capture(0, lambda fraction: None)
        before, started = (len(Compiled.profile_events), len(cpu_events)), perf_counter_us()
        token = again.prefill(prompt).read_token()
        for position in range(len(prompt), len(prompt) + n_gen - 1):
            token = again.decode(token, position).read_token()
        for device in graphs.llama.devices:
            Device[device].synchronize()
        del again
        gc.collect()  # a graph hands in the stamps of its last run when it goes
    found = [*Compiled.profile_events[before[0] :], *cpu_events[before[1] :]]
    events = [event for event in trace_events(found) if event["ts"] >= float(started)]
    if not any(event["cat"] == "kernel" for event in events):
        raise NothingRecorded(f"tinygrad recorded no kernel on {graphs.llama.devices[0]}")
    path = folder / "trace.json"
    path.write_text(json.dumps({"traceEvents": numbered(events), "displayTimeUnit": "ms"}))
    return {path.name: path}


def trace_events(found: Iterable[object]) -> Iterator[dict[str, Any]]:
    """tinygrad's events as complete events ("X") of Chrome's format, microseconds."""
    for event in found:
        if isinstance(event, ProfileGraphEvent):
            for entry in event.ents:
                yield complete(entry.device, entry.name, event.sigs[entry.st_id], event.sigs[entry.en_id])
        elif isinstance(event, ProfileRangeEvent) and event.en is not None:
            yield complete(event.device, event.name, event.st, event.en)


def complete(device: str, name: Any, start: Any, end: Any) -> dict[str, Any]:
    """Devices called TINY and USER are tinygrad's own Python code."""
    cat = "host" if device in ("TINY", "USER") else "kernel"
    words = ansistrip(getattr(name, "display_name", name))
    return {
        "ph": "X",
        "cat": cat,
        "name": words,
        "pid": 0,
        "tid": device,
        "ts": float(start),
        "dur": float(end - start),
    }


def numbered(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The format wants a number for each thread, and its name in an event of its own ("M")."""
    numbers = {name: number for number, name in enumerate(sorted({event["tid"] for event in events}), 1)}
    names = [
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": number, "args": {"name": name}}
        for name, number in numbers.items()
    ]
    return [*names, *({**event, "tid": numbers[event["tid"]]} for event in events)]
