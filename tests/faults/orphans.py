"""`just torture-orphans`: the orchestrator is killed in every state; five seconds later nothing of it may be left.

A real `enginebench run`, `prompt` or `chat` on the model tiny. Its engine is a stand-in (stand_in.py) that stops where
it is told; what the orchestrator does by itself is caught by looking at its children and files. We are the reaper of
everything below us, so whoever is below us afterwards is an orphan, whatever it calls itself. The tally is JSON.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import psutil
from enginebench.machine.devices import device_count
from enginebench.run.process import become_subreaper
from enginebench.run.watchdog import PREFIX, YOUNG_SECONDS
from enginebench.store.journal import read_journal

sys.path.insert(0, str(Path(__file__).parent))

from leftovers import listens, orphans, segments, told
from trial import STATES, Outcome, Trial, trials
from trial_room import NotReached, Room, Stage

LIMIT_SECONDS = 5.0
ORDERLY = ("SIGTERM", "hang-up", "Ctrl-C", "Ctrl-C twice")
"""It may take its time to end what it does; five seconds count from its own end."""
ORDERLY_SECONDS = 30.0


def try_out(room: Room) -> Outcome:
    """Start, wait for the state, kill, and look until nothing is left or the time is over."""
    outcome = Outcome(room.trial)
    process = room.start()
    try:
        room.reach(process)
        time.sleep(room.trial.delay)
        kill(process, room)
        began = time.monotonic()
        process.wait(ORDERLY_SECONDS)
        if room.trial.kill in ORDERLY:
            began = time.monotonic()
        if room.trial.kill == "with its watchdog":
            outcome.outlived = next_run_begins(room)
        outcome.left = watch(room, began)
        outcome.seconds = time.monotonic() - began
    except NotReached as missed:
        outcome.missed = str(missed)
    except subprocess.TimeoutExpired:
        outcome.left = ["the orchestrator itself"]
    finally:
        clean_up(process, room)
    return outcome


def kill(process: subprocess.Popen[bytes], room: Room) -> None:
    match room.trial.kill:
        case "orchestrator":
            process.kill()
        case "its group":
            os.killpg(process.pid, signal.SIGKILL)
        case "SIGTERM":
            process.terminate()
        case "hang-up":
            hang_up(process, room)
        case "with its watchdog":
            kill_both(process)
        case interrupts:
            interrupt(process, twice=interrupts == "Ctrl-C twice", goes_on=room.terminal is not None)


def hang_up(process: subprocess.Popen[bytes], room: Room) -> None:
    if room.terminal is None:
        os.killpg(process.pid, signal.SIGHUP)
    else:
        os.close(room.terminal)
        room.terminal = None


def interrupt(process: subprocess.Popen[bytes], twice: bool, goes_on: bool) -> None:
    """A chat goes on after Ctrl-C: it is killed then."""
    for _ in range(1 + twice):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    if goes_on:
        process.kill()


def kill_both(process: subprocess.Popen[bytes]) -> None:
    for watchdog in psutil.Process(process.pid).children():
        if "watchdog.py" in told(watchdog):
            watchdog.kill()
    process.kill()


def next_run_begins(room: Room) -> int:
    """What was killed together with its watchdog is ended by the next one. Returns how many processes outlived both.

    The engine itself must be gone before: that is the kernel's work.
    """
    time.sleep(2.5)  # protocol: an engine that sees its stream close has two seconds
    outlived = [p for p in orphans(room.stage.spared) if "stand_in.py" not in told(p)]
    old = time.time() - 2 * YOUNG_SECONDS
    for folder in room.temporary.glob(f"{PREFIX}*"):
        os.utime(folder, (old, old))
    script = Path(sys.modules[become_subreaper.__module__].__file__ or "").with_name("watchdog.py")
    command = [sys.executable, "-I", str(script), str(room.temporary / f"{PREFIX}next")]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=30)
    return len(outlived)


def watch(room: Room, began: float) -> list[str]:
    """What is left when the time is over; nothing as soon as there is nothing."""
    limit = began + LIMIT_SECONDS + (5.0 if room.trial.kill == "with its watchdog" else 0.0)
    while left := found(room):
        if time.monotonic() > limit:
            return left
        time.sleep(0.05)
    return []


def found(room: Room) -> list[str]:
    made = room.left()
    things = [f"process {told(p)}" for p in orphans(room.stage.spared)]
    things += [f"port {port}" for port in made.ports if listens(port)]
    things += [f"file {path}" for path in made.files if Path(path).exists()]
    things += [f"segment {segment}" for segment in made.segments if segment in segments()]
    things += [fault for journal in room.results.glob("*/journal") if (fault := fault_of(journal))]
    return [*things, *(f"in the temporary folder: {path.name}" for path in room.temporary.iterdir())]


def fault_of(journal: Path) -> str:
    """What is wrong with a journal that was cut short: nothing but a torn end may be."""
    if b"\n" not in journal.read_bytes():  # killed while it was begun
        return ""
    damaged = read_journal(journal).damaged
    return "; ".join(str(damage) for damage in damaged if "torn: the write was cut short" not in damage.reason)


def clean_up(process: subprocess.Popen[bytes], room: Room) -> None:
    """Nothing that one trial leaves may count against the next."""
    made = room.left()
    if process.returncode is None:
        process.kill()
        process.wait()
    for orphan in orphans(room.stage.spared):
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    orphans()
    for path in made.files:
        Path(path).unlink(missing_ok=True)
    for segment in set(made.segments) & segments():
        ctypes.CDLL(None).shmctl(segment, 0, None)
    room.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", action="append", choices=STATES, help="only these; default: all")
    parser.add_argument("--trials", type=Path, help="a JSON list of what is to be tried, instead of dice")
    parser.add_argument("--program", nargs="+", default=["-m", "enginebench"], help="for a negative control")
    parser.add_argument("--output", type=Path, default=None, help="where the tally goes, beside stdout")
    options = parser.parse_args()
    become_subreaper()
    started, outcomes = time.monotonic(), list[Outcome]()
    with tempfile.TemporaryDirectory(prefix="orphans-") as folder:
        stage = Stage(Path(folder), options.program)
        chosen = trials(options.kills, options.seed, options.state or STATES)
        if options.trials:
            chosen = msgspec.json.decode(options.trials.read_bytes(), type=list[Trial])
        for number, trial in enumerate(chosen, 1):
            if trial.state == "sync" and stage.unsynced is None:
                outcomes.append(Outcome(trial, missed="every engine has its environment"))
                continue
            outcomes.append(try_out(stage.room(trial)))
            tell(number, outcomes[-1])
    found = tally(outcomes) | {"seed": options.seed, "seconds": round(time.monotonic() - started, 1)}
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return 1 if found["orphans"] or found["missed"] else 0


def tell(number: int, outcome: Outcome) -> None:
    trial = outcome.trial
    what = f"{number} {trial.state}, killed: {trial.kill}, {trial.stands}, leaves {' '.join(trial.leaves) or 'nothing'}"
    end = outcome.missed or "; ".join(outcome.left) or f"clean after {outcome.seconds:.1f} s"
    print(f"{what}: {end}", file=sys.stderr, flush=True)


def tally(outcomes: Sequence[Outcome]) -> dict[str, object]:
    tried = [outcome for outcome in outcomes if not outcome.missed]
    count = collections.Counter
    return {
        "kills": len(tried),
        "orphans": sum(bool(outcome.left) for outcome in tried),
        "states": dict(count(outcome.trial.state for outcome in tried)),
        "killed": dict(count(outcome.trial.kill for outcome in tried)),
        "stood": dict(count(outcome.trial.stands for outcome in tried)),
        "left behind by engines": dict(count(kind for outcome in tried for kind in outcome.trial.leaves)),
        "outlived until the next run": sum(outcome.outlived for outcome in tried),
        "slowest_s": round(max((o.seconds for o in tried if o.trial.kill != "with its watchdog"), default=0.0), 2),
        "missed": [f"{outcome.trial.state}: {outcome.missed}" for outcome in outcomes if outcome.missed],
        "left": [{**asdict(outcome.trial), "left": outcome.left} for outcome in tried if outcome.left],
        "gpu_memory": "unverified: no GPU here" if not device_count("cuda") else "processes only",
    }


if __name__ == "__main__":
    sys.exit(main())
