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
import pty
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import psutil
from enginebench.machine.devices import device_count
from enginebench.run.process import become_subreaper
from enginebench.run.watchdog import PREFIX, YOUNG_SECONDS
from enginebench.store.journal import read_journal
from enginebench.store.result import read_result
from enginebench.workspace import discovery, environment

sys.path.insert(0, str(Path(__file__).parent))

from stand_in import Left, Plan

LIMIT_SECONDS = 5.0
REACH_SECONDS = 60.0
VOCABULARY = 4_096  # of the model tiny; an engine that tells of another one is refused
POLL_SECONDS = 0.01
EDITOR = b"\x1b[0m>"
"""The chat waits for a line."""

AT_ENGINE = ("versions", "spawn", "load", "request 1", "memory", "request 2", "request 3", "unload", "shutdown")
IN_SECOND_LAUNCH = ("timed load", "timed request 2")
JUDGED = ("score", "judging")
ALONE = ("start", "model check", "watchdog starts", "sync", "between launches", "result", "anywhere")
RUN_STATES = (*AT_ENGINE, *IN_SECOND_LAUNCH, "profile", *JUDGED, *ALONE)
TALKING = ("prompt load", "prompt answer", "chat answer", "chat idle")
STATES = (*RUN_STATES, *TALKING)
KILLS = ("orchestrator", "its group", "SIGTERM", "hang-up", "Ctrl-C", "Ctrl-C twice", "with its watchdog")
ORDERLY = ("SIGTERM", "hang-up", "Ctrl-C", "Ctrl-C twice")
"""It may take its time to end what it does; five seconds count from its own end."""
ORDERLY_SECONDS = 30.0
STANDS = ("asleep", "native", "deaf", "stopped")
LEAVES = ("group", "session", "bare", "server", "socket", "posix", "sysv")
TOLD = ("group", "session", "server", "socket")
"""What is known by its environment alone: it is found even where the watchdog was killed too, by the next one."""


@dataclass(frozen=True)
class Trial:
    """One kill. `delay`: seconds between arriving and killing."""

    state: str
    kill: str = "orchestrator"
    stands: str = "asleep"
    leaves: tuple[str, ...] = ()
    delay: float = 0.0


WHOLE = Trial("whole run")
"""Nobody kills it."""


@dataclass
class Outcome:
    """`left`: what was there after five seconds. `missed`: the state was not reached, so nothing was tried."""

    trial: Trial
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    missed: str = ""
    outlived: int = 0
    """Processes that lived on, where the watchdog was killed too, until the next run began."""


class Stage:
    """Where trials take place: caches that are warm, a folder for each."""

    def __init__(self, folder: Path, program: Sequence[str] = ("-m", "enginebench")) -> None:
        """`program`: what the interpreter is given, before the words of the command line."""
        self.folder = folder
        self.program = program
        self.spared: set[int] = set()
        """Children of ours that belong to no trial."""
        self.cache = folder / "cache"
        self.cache.mkdir(parents=True)
        self.count = 0
        self._warm_up()
        self.unsynced = next(iter(unsynced()), None)

    def _warm_up(self) -> None:
        """A run that nobody kills makes the model, and the environments that it needs. Raises RuntimeError."""
        room = self.room(WHOLE)
        process = room.start()
        if process.wait(REACH_SECONDS * 5) != 0:
            print(f"a run that nobody killed: exit {process.returncode}: {room.reasons()}", file=sys.stderr)
        if not any(room.results.glob("*/result.json")):
            raise RuntimeError(f"a run that nobody killed has no result: {room.log()}")
        room.close()

    def room(self, trial: Trial) -> Room:
        self.count += 1
        return Room(self, trial, self.folder / f"trial-{self.count}")


class Room:
    """One trial: its plan, its temporary folder, its orchestrator."""

    def __init__(self, stage: Stage, trial: Trial, folder: Path) -> None:
        self.stage, self.trial, self.folder = stage, trial, folder
        self.temporary = folder / "tmp"
        self.results = folder / "runs"
        for made in (self.temporary, folder / "bin"):
            made.mkdir(parents=True)
        self.engine = "tinygrad" if trial.state in JUDGED else "fake"
        plan = Plan(
            engine=self.engine,
            configurations=["default", "echo"],
            vocab_size=VOCABULARY,
            state=state_of_engine(trial.state),
            launch=2 if trial.state in IN_SECOND_LAUNCH else 3 if trial.state == "profile" else 1,
            stands=trial.stands,
            leaves=list(trial.leaves),
        )
        (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
        for name in ("python", "uv"):
            wrapper = folder / "bin" / name
            script = Path(__file__).with_name("stand_in.py")
            wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "{folder}/plan.json" "$@"\n')
            wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        self.terminal: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {"TMPDIR": str(self.temporary), "XDG_CACHE_HOME": str(self.stage.cache), "TERM": "xterm-256color"}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}" if self.trial.state == "sync" else os.environ["PATH"]
        return {**os.environ, **own, "PATH": path, "XDG_STATE_HOME": str(self.folder / "state")}

    def words(self) -> list[str]:
        """Of the command line."""
        state = self.trial.state
        engine = self.stage.unsynced if state == "sync" else self.engine
        python = [] if state == "sync" else ["--python", f"engine-{self.engine}={self.folder / 'bin' / 'python'}"]
        common = [*python, "--model", "tiny"]
        if state.startswith("prompt"):
            return ["prompt", "a question", "--engine", self.engine, *common]
        if state.startswith("chat"):
            return ["chat", self.engine, *common]
        profile = ["--profile"] if state == "profile" else []
        return ["run", str(engine), *common, "--preset", "smoke", "--results", str(self.results), *profile]

    def start(self, words: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """`words`: of another command line than its own."""
        command = [sys.executable, *self.stage.program, *(words or self.words())]
        if not self.trial.state.startswith("chat"):
            with (self.folder / "log").open("wb") as log:
                return subprocess.Popen(
                    command,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        self.terminal, slave = pty.openpty()
        process = subprocess.Popen(
            ["setsid", "--ctty", *command], env=self.environment, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        return process

    def reach(self, process: subprocess.Popen[bytes]) -> None:
        """Returns when the state is there. Raises NotReached."""
        state = self.trial.state
        if state in ("start", "anywhere"):
            return
        if state == "model check":
            self._until(process, lambda: has_child(process.pid, "enginebench_models.validate"))
        elif state == "watchdog starts":
            self._until(process, lambda: has_child(process.pid, "watchdog.py"))
        elif state == "result":
            self._until(process, lambda: any(self.results.glob("*/*result.json*")))
        elif state == "chat idle":
            self._until(process, lambda: EDITOR in self._screen())
        elif state == "chat answer":
            self._until(process, lambda: EDITOR in self._screen())
            assert self.terminal is not None
            os.write(self.terminal, b"a question\r")
            self._until(process, self._arrived)
        else:
            self._until(process, self._arrived)

    def _arrived(self) -> bool:
        self._screen()
        return (self.folder / "arrived").exists()

    def _screen(self) -> bytes:
        """What has come on the terminal, which must be read lest its writer waits."""
        if self.terminal is None:
            return b""
        os.set_blocking(self.terminal, False)
        with contextlib.suppress(OSError), (self.folder / "log").open("ab") as log:
            log.write(os.read(self.terminal, 65536))
        return (self.folder / "log").read_bytes()

    def _until(self, process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + REACH_SECONDS
        while not reached():
            if process.poll() is not None:
                raise NotReached(f"exit {process.returncode}: {self.log()}")
            if time.monotonic() > deadline:
                raise NotReached(f"not after {REACH_SECONDS:g} s: {self.log()}")
            time.sleep(POLL_SECONDS)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-400:]

    def reasons(self) -> str:
        """Why cases of its run have no numbers."""
        cases = [case for path in self.results.glob("*/result.json") for case in read_result(path)["cases"]]
        return "; ".join(f"{case['engine']}: {case['reason']}" for case in cases if case["status"] != "ok")

    def left(self) -> Left:
        with contextlib.suppress(OSError):
            return msgspec.json.decode((self.folder / "arrived").read_bytes(), type=Left)
        return Left()

    def close(self) -> None:
        if self.terminal is not None:
            with contextlib.suppress(OSError):
                os.close(self.terminal)
            self.terminal = None
        shutil.rmtree(self.folder, ignore_errors=True)


class NotReached(Exception):
    """The orchestrator ended, or hung, before the state that was wanted."""


def state_of_engine(state: str) -> str:
    """Where the stand-in stops."""
    known = {
        "judging": "ended",
        "between launches": "ended",
        "timed load": "load",
        "timed request 2": "request 2",
        "prompt load": "load",
        "prompt answer": "request 1",
        "chat answer": "request 1",
    }
    return known.get(state, state if state in (*AT_ENGINE, "profile", "score", "sync") else "")


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


def orphans(spared: Collection[int] = ()) -> list[psutil.Process]:
    """Everything below us that is no zombie; zombies are reaped."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [p for p in psutil.Process().children(recursive=True) if p.pid not in spared and is_alive(p)]


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def told(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    return f"{process.pid}"


def has_child(pid: int, word: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(word in told(child) for child in psutil.Process(pid).children())
    return False


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def segments() -> set[int]:
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    return {int(line.split()[1]) for line in lines[1:]}


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


def unsynced() -> Iterator[str]:
    """Engines without an environment: what installs one can be tried on them alone."""
    for info in discovery.discover().values():
        if not environment.is_synced(info) and discovery.unavailable_reason(info, None, "cpu") is None:
            yield info.name


def trials(count: int, seed: int, states: Sequence[str] = STATES) -> list[Trial]:
    """Each state by a plain SIGKILL first, then by dice."""
    dice = random.Random(seed)
    listed = [Trial(state, delay=delay_of(state, dice)) for state in states]
    while len(listed) < count:
        listed.append(rolled(states[len(listed) % len(states)], dice))
    return listed[:count]


def rolled(state: str, dice: random.Random) -> Trial:
    how = dice.choice(KILLS)
    stops = bool(state_of_engine(state)) and state not in ("judging", "between launches")
    if how == "with its watchdog":  # the rest is not promised there
        return Trial(state, how, "asleep", told_leaves(dice) if stops else (), delay_of(state, dice))
    leaves = tuple(dice.sample(LEAVES, dice.randint(0, 3))) if stops else ()
    return Trial(state, how, dice.choice(STANDS) if stops else "asleep", leaves, delay_of(state, dice))


def told_leaves(dice: random.Random) -> tuple[str, ...]:
    return tuple(dice.sample(TOLD, dice.randint(0, 2)))


def delay_of(state: str, dice: random.Random) -> float:
    return dice.uniform(0, {"anywhere": 4.0, "start": 0.5, "between launches": 0.2, "judging": 0.5}.get(state, 0.02))


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
