"""`just soak`: everything at once for a set time: launches that end well or badly, whole runs, killed runs, interrupted
runs, damaged model files. Which event comes next is a matter of a seeded dice; whatever comes, each launch is
classified as the table says, every journal can be read, nothing is left behind and nothing grows. The tally is JSON.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import inject
import launches
import leftovers
import matrix
import orphans
import trial
import trial_room
from enginebench.run.guard import Watchdog
from enginebench.run.process import become_subreaper
from enginebench.store.result import read_result

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from models.tests import mutations, test_malformed_gguf  # noqa: E402

RUN_SECONDS = 120.0
ENOUGH_READINGS = 1000
"""For a slope of memory: before, modules are imported at their first use."""
INTERRUPT_SECONDS = 20.0
"""After a Ctrl-C: the engine has its grace, what was measured is written."""
FINE = {"ok", "invalid"}
"""`invalid`: the machine was too busy to time anything."""


@dataclass
class Soak:
    """The state of a soak: what happens in this process, the stage of what happens in others, and the tally."""

    dice: random.Random
    bench: launches.Bench
    stage: trial_room.Stage
    faults: inject.Bench
    course: launches.Course = field(default_factory=launches.Course)
    events: collections.Counter[str] = field(default_factory=collections.Counter)
    endings: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    injections: list[matrix.Injection] = field(default_factory=lambda: list(matrix.every()))

    def step(self) -> None:
        """One event, and a look at everything."""
        name = self.dice.choices(list(EVENTS), [weight for _, weight in EVENTS.values()])[0]
        self.events[name] += 1
        EVENTS[name][0](self)
        leftovers.orphans()  # reaps what lost its parent
        if self.events.total() > launches.WARM_UP:
            self.course.add(self.bench.reading())

    def expect(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.wrong.append(f"event {self.events.total()}, {what}: {found!r} instead of {expected!r}")
            print(self.wrong[-1], file=sys.stderr, flush=True)

    def launch(self) -> None:
        configuration, kind = self.dice.choice(launches.TURNS)
        launch = self.bench.launch(configuration, kind)
        reason = launch.failure.reason if launch.failure else None
        self.endings[f"{configuration}: {reason or 'good'}"] += 1
        self.expect(f"{kind} launch of {configuration}", reason, launches.EXPECTED[configuration])

    def fault(self) -> None:
        """One of the table of faults."""
        injection = self.dice.choice(self.injections)
        found = self.faults.inject(injection)
        self.endings[f"{injection.fault}: {found.ended.partition(' in ')[0]}"] += 1
        self.expect(f"{injection.fault} in {injection.state}: {found.ended}", found.wrong, [])

    def kill(self) -> None:
        state = self.dice.choice([state for state in trial.STATES if state != "sync"])
        outcome = orphans.try_out(self.stage.room(trial.rolled(state, self.dice)))
        self.endings[f"killed: {outcome.trial.kill}"] += 1
        self.expect(f"{outcome.trial}", (outcome.missed, outcome.left), ("", []))

    def whole_run(self) -> None:
        room = self.stage.room(trial.WHOLE)
        process = room.start()
        self._ended("run", process, room, RUN_SECONDS, [0])
        self._close(process, room)

    def interrupted_run(self) -> None:
        """With Ctrl-C, anywhere; what was interrupted goes on with --resume and ends as if nothing had been."""
        room = self.stage.room(trial.WHOLE)
        process = room.start()
        time.sleep(self.dice.uniform(0.3, 4.0))
        process.send_signal(signal.SIGINT)
        self._ended("interrupted run", process, room, INTERRUPT_SECONDS, [0, 130, -signal.SIGINT])
        for journal in room.results.glob("*/journal"):
            if b"\n" in journal.read_bytes():
                process = room.start(["run", "--resume", str(journal.parent)])
                self._ended("resumed run", process, room, RUN_SECONDS, [0])
                result = read_result(journal.parent / "result.json")
                self.expect("resumed run, left out", result["plan"]["left_out"], [])
                self.expect("resumed run, cases", {case["status"] for case in result["cases"]} <= FINE, True)
        self._close(process, room)

    def damaged_file(self) -> None:
        """Refused with exit code 2, unless it is as sound as before."""
        raw = mutations.damaged_gguf(self.dice)
        path = self.stage.folder / "damaged.gguf"
        path.write_bytes(raw)
        rule = test_malformed_gguf.broken_rule(raw)
        done = subprocess.run(
            [sys.executable, "-m", "enginebench", "validate", str(path)], capture_output=True, timeout=60, check=False
        )
        self.endings[f"file: {'sound' if rule == '' else 'refused'}"] += 1
        self.expect(f"damaged file, rule {rule!r}", done.returncode, 0 if rule == "" else 1)

    def _ended(
        self, what: str, process: subprocess.Popen[bytes], room: trial_room.Room, seconds: float, codes: Sequence[int]
    ) -> None:
        """Waits for its end and looks at what it left."""
        code: int | str
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = "hangs"
        self.endings[f"{what}: exit {code}"] += 1
        self.expect(f"{what}, left behind", orphans.watch(room, time.monotonic()), [])
        self.expect(f"{what}, exit {code}: {room.reasons()} {room.log()}", code in codes, True)
        self.expect(f"{what}: {room.log()}", "Traceback" in room.log(), False)

    def _close(self, process: subprocess.Popen[bytes], room: trial_room.Room) -> None:
        for path in room.results.glob("*/result.json"):
            read_result(path)
        orphans.clean_up(process, room)


EVENTS: dict[str, tuple[Callable[[Soak], None], int]] = {
    "launch": (Soak.launch, 50),
    "fault": (Soak.fault, 25),
    "kill": (Soak.kill, 10),
    "run": (Soak.whole_run, 2),
    "interrupted run": (Soak.interrupted_run, 5),
    "damaged file": (Soak.damaged_file, 8),
}


def soak(seconds: float, seed: int, tell: bool = True) -> Soak:
    become_subreaper()
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="soak-") as name, Watchdog() as watchdog:
        folder = Path(name)
        (folder / "bench").mkdir()
        stage = trial_room.Stage(folder / "stage")
        stage.spared.add(watchdog.pid)
        state = Soak(random.Random(seed), launches.Bench(folder / "bench", watchdog), stage, faults(folder, watchdog))
        while time.monotonic() < deadline:
            state.step()
            if tell and state.events.total() % 50 == 0:
                print(dict(state.events), f"wrong: {len(state.wrong)}", file=sys.stderr, flush=True)
    return state


def faults(folder: Path, watchdog: Watchdog) -> inject.Bench:
    """With our watchdog: one of its own would be swept up as a stray."""
    bench = inject.Bench(folder, "soak")
    bench.watchdog.close()
    bench.watchdog = watchdog
    tempfile.tempdir = None
    return bench


def tally(state: Soak, seconds: float, seed: int) -> dict[str, object]:
    n_readings = len(state.course.columns["rss_bytes"])
    enough = n_readings >= ENOUGH_READINGS
    return {
        "events": dict(state.events),
        "total": state.events.total(),
        "endings": dict(sorted(state.endings.items())),
        "wrong": state.wrong,
        "grown": state.course.grown() if n_readings else None,
        "rss_growth_bytes_per_1000": round(state.course.growth_bytes()) if enough else None,
        "rss_bytes_by_tenths": state.course.by_tenths() if enough else None,
        "seed": seed,
        "seconds": round(seconds, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="where the tally goes, beside stdout")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    state = soak(options.minutes * 60, options.seed)
    found = tally(state, time.monotonic() - started, options.seed)
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    growth = found["rss_growth_bytes_per_1000"]
    grows = isinstance(growth, int) and growth >= launches.GROWTH_LIMIT_BYTES
    return 1 if found["wrong"] or found["grown"] or grows else 0


if __name__ == "__main__":
    sys.exit(main())
