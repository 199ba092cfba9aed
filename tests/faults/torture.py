"""`just torture`: engines that go wrong, in every way and in every state, again and again; the tally as JSON.

Every launch is the product's own, in one of some processes that mostly wait. An injection is right if it is classified
exactly as matrix.py says and leaves nothing behind; see inject.py.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import psutil
from inject import Bench, Found
from matrix import FAULTS, STATES, Injection, every, some
from misdeeds import FOREVER_SECONDS

Plant = Callable[[], None]
_benches: list[Bench] = []
"""Of this process: one, made by its initialiser."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="rounds over the whole table (default 3)")
    parser.add_argument("--quick", action="store_true", help="each fault and each state once, not the whole table")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--jobs", type=int, default=8, help="processes; they mostly wait (default 8)")
    parser.add_argument("--output", type=Path, default=Path("faults.json"), help="the tally (default faults.json)")
    options = parser.parse_args()
    started = time.monotonic()
    mark = new_mark()
    found = list(told(torture(_chosen(options), options.jobs, mark)))
    tally = {"seed": options.seed, "jobs": options.jobs, **tally_of(found), "seconds": time.monotonic() - started}
    tally["processes_left_at_the_end"] = [shown_process(stray) for stray in strays(mark)]
    options.output.write_text(json.dumps(tally, indent=1) + "\n")
    print(shown(tally))
    return 1 if tally["wrong"] or tally["processes_left_at_the_end"] else 0


def new_mark() -> str:
    """What all processes of a run have in their command line, whoever's children they became."""
    return f"{FOREVER_SECONDS}.{secrets.randbelow(10**9):09d}"


def torture(injections: Iterable[Injection], jobs: int, mark: str, plant: Plant | None = None) -> Iterator[Found]:
    """In any order. `plant` spoils the product in each process before the first launch: a negative control."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["inject"])
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        ProcessPoolExecutor(jobs, context, _begin, (Path(folder), mark, plant)) as pool,
    ):
        futures = {pool.submit(_inject, injection): injection for injection in injections}
        try:
            for future in as_completed(futures):
                yield _outcome(futures[future], future)
        finally:
            pool.shutdown(cancel_futures=True)  # for Ctrl-C


def _outcome(injection: Injection, future: Future[Found]) -> Found:
    try:
        return future.result()
    except BrokenProcessPool as error:
        return Found(injection, "the orchestrator's process died", 0.0, [str(error)])
    except Exception as error:  # noqa: BLE001 - a launch never raises for what an engine does
        return Found(injection, "raised", 0.0, [f"raised {type(error).__name__}: {error}"])


def tally_of(found: list[Found]) -> dict[str, Any]:
    wrong = [
        f"{each.injection.fault} / {each.injection.state}: {'; '.join(each.wrong)}" for each in found if each.wrong
    ]
    slowest = max(found, key=lambda each: each.seconds)
    combinations = {each.injection for each in found}
    return {
        "injections": len(found),
        "right": len(found) - len(wrong),
        "wrong": sorted(wrong),
        "faults": len({injection.fault for injection in combinations}),
        "states": len({injection.state for injection in combinations}),
        "combinations": len(combinations),
        "expected": dict(collections.Counter(each.injection.end.reason or "nothing happens" for each in found)),
        "disturbed": sum(each.disturbed for each in found),
        "orphans": sum(each.left for each in found),
        "slowest_s": round(slowest.seconds, 2),
        "slowest": f"{slowest.injection.fault} / {slowest.injection.state}",
        "left_out": left_out(),
    }


def left_out() -> dict[str, str]:
    """Fault → the states where it is not tried, and why."""
    states = {name: [state for state in STATES if state not in fault.at] for name, fault in FAULTS.items()}
    return {name: f"{', '.join(missing)}: {FAULTS[name].elsewhere}" for name, missing in states.items() if missing}


def told(found: Iterator[Found]) -> Iterator[Found]:
    """With a line to stderr for each that is wrong, and one now and then."""
    for number, each in enumerate(found, 1):
        if each.wrong:
            print(f"{each.injection.fault} / {each.injection.state}: {'; '.join(each.wrong)}", file=sys.stderr)
        if number % 100 == 0:
            print(f"{number} injections", file=sys.stderr, flush=True)
        yield each


def shown(tally: dict[str, Any]) -> str:
    lines = [
        f"{tally['injections']} injections in {tally['seconds']:.0f} s",
        f"{tally['faults']} faults in {tally['states']} states, {tally['combinations']} combinations",
        f"classified right {tally['right']}, wrong {len(tally['wrong'])}",
        f"repeated, because the kernel killed another process of this machine meanwhile: {tally['disturbed']}",
        f"processes left {tally['orphans']}, at the end {len(tally['processes_left_at_the_end'])}",
        f"slowest {tally['slowest_s']:.1f} s: {tally['slowest']}",
        *(f"WRONG {line}" for line in tally["wrong"]),
    ]
    return "\n".join(lines)


def strays(mark: str) -> list[psutil.Process]:
    """Of all processes of this machine, those that a run has left."""
    return [process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or [])]


def shown_process(process: psutil.Process) -> str:
    return " ".join(process.info["cmdline"])


def _chosen(options: argparse.Namespace) -> list[Injection]:
    if options.quick:
        return some(options.seed)
    injections = [injection for _ in range(options.repeat) for injection in every()]
    random.Random(options.seed).shuffle(injections)
    return injections


def _begin(folder: Path, mark: str, plant: Plant | None) -> None:
    if plant is not None:
        plant()
    _benches.append(Bench(folder, mark))


def _inject(injection: Injection) -> Found:
    return _benches[0].inject(injection)


if __name__ == "__main__":
    raise SystemExit(main())
