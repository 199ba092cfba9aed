"""`just torture-launches`: a thousand launches in one process, good ones and failing ones. Does anything grow?

Descriptors, threads, zombies, children and temporary files must be as after the warm-up, exactly; resident memory of
this process and of its watchdog may grow by less than 1 MiB in a thousand launches. The tally is JSON.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import psutil
from enginebench.machine.watch import Watch
from enginebench.run.guard import Watchdog
from enginebench.run.launch import run_launch
from enginebench.run.order import LaunchOrder
from enginebench.run.process import become_subreaper
from enginebench.store.record import Case, Kind, Launch, Workload
from enginebench.workspace import discovery, environment
from enginebench.workspace.environment import Interpreter

WARM_UP = 50
"""Launches before the first reading that counts: caches of the interpreter and of its allocator fill."""
WORKLOAD = Workload(n_prompt=4, n_gen=4)
TURNS: tuple[tuple[str, Kind], ...] = (
    ("instant", "timed"),
    ("instant", "check"),
    ("instant", "timed"),
    ("crash", "timed"),
    ("instant", "profile"),
    ("exit", "check"),
    ("instant", "cold"),
    ("orphan", "timed"),
    ("refuse", "check"),
    ("flood-stderr", "timed"),
    ("instant", "timed"),
    ("short", "timed"),
)
EXPECTED = {
    "instant": None,
    "orphan": None,
    "flood-stderr": None,
    "crash": "signal",
    "exit": "exit",
    "refuse": "unsupported",
    "short": "engine-failure",
}
GROWTH_LIMIT_BYTES = 1 << 20
"""In a thousand launches (method, section 7)."""


@dataclass(frozen=True)
class Reading:
    """Of this process, between two launches."""

    descriptors: int
    threads: int
    children: int
    zombies: int
    temporary: int
    rss_bytes: int
    watchdog_rss_bytes: int
    watchdog_descriptors: int


EXACT = ("descriptors", "threads", "children", "zombies", "temporary", "watchdog_descriptors")


class Bench:
    """Everything that a run has around its launches, without a run."""

    def __init__(self, folder: Path, watchdog: Watchdog) -> None:
        info = discovery.discover()["fake"]
        here = Path(sys.executable)
        self.folder, self.watchdog, self.module = folder, watchdog, info.module
        self.interpreter: Interpreter = environment.startable(info, {info.name: here}, lambda text: None)
        self.watch = Watch.of_device("cpu")
        self.numbers = itertools.count()
        self.known = {child.pid for child in psutil.Process().children(recursive=True)}
        """The watchdog, and what was there before."""

    def launch(self, configuration: str, kind: Kind) -> Launch:
        profile = self.folder / "profile" if kind == "profile" else None
        if profile is not None:
            profile.mkdir(exist_ok=True)
        order = LaunchOrder(
            case=Case("fake", configuration, "tiny", WORKLOAD),
            kind=kind,
            block=0,
            order=next(self.numbers),
            module=self.module,
            model_path=self.folder / "no-model",
            device="cpu",
            threads=1,
            cache=self.folder,
            seed=0,
            warmup=1,
            iterations=0 if kind == "cold" else 2,
            silence_seconds=60.0,
            watch=self.watch,
            profile_folder=profile,
        )
        return run_launch(order, self.interpreter, lambda what: None, self.watchdog)

    def reading(self) -> Reading:
        own = psutil.Process()
        below = [child for child in own.children(recursive=True) if child.pid not in self.known]
        guard = psutil.Process(self.watchdog.pid)
        return Reading(
            descriptors=own.num_fds(),
            threads=own.num_threads(),
            children=len(below),
            zombies=sum(child.status() == psutil.STATUS_ZOMBIE for child in below),
            temporary=sum(1 for _ in self.watchdog.folder.iterdir()),
            rss_bytes=own.memory_info().rss,
            watchdog_rss_bytes=guard.memory_info().rss,
            watchdog_descriptors=guard.num_fds(),
        )


@dataclass
class Course:
    """What was read after each launch, from the end of the warm-up on: in columns, which hardly grow themselves."""

    columns: dict[str, array[int]] = field(default_factory=lambda: {f.name: array("q") for f in fields(Reading)})
    misjudged: list[str] = field(default_factory=list)
    endings: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, reading: Reading) -> None:
        for name, column in self.columns.items():
            column.append(getattr(reading, name))

    def at(self, index: int) -> dict[str, int]:
        return {name: column[index] for name, column in self.columns.items()}

    def grown(self) -> dict[str, list[int]]:
        """Name → its values, of what should have stayed the same."""
        found = {name: sorted(set(self.columns[name])) for name in EXACT}
        return {name: values for name, values in found.items() if len(values) > 1 or (name in STILL and values != [0])}

    def by_tenths(self, name: str = "rss_bytes") -> list[int]:
        """Medians of the tenths of the course: does it rise to the end, or only at first?"""
        values = self.columns[name]
        tenth = max(1, len(values) // 10)
        return [round(statistics.median(values[start : start + tenth])) for start in range(0, tenth * 10, tenth)]

    def growth_bytes(self, name: str = "rss_bytes") -> float:
        """In a thousand launches, by the line through the medians of the first and the last third (Tukey)."""
        values = self.columns[name]
        third = max(1, len(values) // 3)
        rise = statistics.median(values[-third:]) - statistics.median(values[:third])
        return rise / max(1, len(values) - third) * 1000


STILL = ("children", "zombies", "temporary")
"""These have to be none at all."""


def measure(count: int, warm_up: int = WARM_UP, after: Callable[[], None] = lambda: None, tell: bool = False) -> Course:
    """`count` launches after the warm-up. `after`: called after each, for a negative control."""
    become_subreaper()
    course = Course()
    with tempfile.TemporaryDirectory(prefix="launches-") as folder, Watchdog() as watchdog:
        bench = Bench(Path(folder), watchdog)
        for number, (configuration, kind) in zip(range(warm_up + count), itertools.cycle(TURNS), strict=False):
            launch = bench.launch(configuration, kind)
            reason = launch.failure.reason if launch.failure else None
            course.endings[str(reason or "good")] += 1
            if reason != EXPECTED[configuration]:
                course.misjudged.append(f"{number} {kind} {configuration}: {launch.failure}")
            after()
            if number >= warm_up:
                course.add(bench.reading())
            if tell and number % 100 == 0:
                print(number, bench.reading(), file=sys.stderr, flush=True)
    return course


def tally(course: Course, seconds: float) -> dict[str, object]:
    return {
        "launches": course.endings.total(),
        "endings": course.endings,
        "misjudged": course.misjudged,
        "grown": course.grown(),
        "first": course.at(0),
        "last": course.at(-1),
        "rss_growth_bytes_per_1000": round(course.growth_bytes()),
        "rss_bytes_by_tenths": course.by_tenths(),
        "watchdog_rss_growth_bytes_per_1000": round(course.growth_bytes("watchdog_rss_bytes")),
        "seconds": round(seconds, 1),
    }


def is_good(course: Course) -> bool:
    names = ("rss_bytes", "watchdog_rss_bytes")
    return not (course.misjudged or course.grown() or any(course.growth_bytes(n) >= GROWTH_LIMIT_BYTES for n in names))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launches", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="more, before the first reading that counts")
    parser.add_argument("--output", type=Path, default=None, help="where the tally goes, beside stdout")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    course = measure(options.launches, options.warm_up, tell=True)
    text = json.dumps(tally(course, time.monotonic() - started), indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return 0 if is_good(course) else 1


if __name__ == "__main__":
    sys.exit(main())
