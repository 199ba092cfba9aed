"""One injection: a launch of the misbehaving engine by the product's own `run_launch`, held against the table.

Classified right means: reason, state, exit code or signal, and whose memory it was; and afterwards nothing is left of
it: no process, no descriptor, no thread, no folder; all of it in bounded time. Runs in a process of its own (a launch
sweeps what is below its process), on the main thread.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgpack
import psutil
from enginebench.machine.energy import Meter
from enginebench.machine.oom import OomKills
from enginebench.run.guard import Watchdog
from enginebench.run.launch import run_launch
from enginebench.run.limits import Ladder, Limit, Limits
from enginebench.run.order import LaunchOrder
from enginebench.run.passed_on import engine_environment
from enginebench.run.process import become_subreaper
from enginebench.store.record import Case, Failure, Launch, Workload
from enginebench.workspace.environment import Interpreter
from matrix import OK, STATES, End, Injection

CHILD = Path(__file__).with_name("child.py")
BOUND_SECONDS = 20.0
"""For one launch, whatever happens in it."""
TRIES, VOCABULARY = 3, 512
SILENCE_SECONDS = 2.5
LIMITS = Limits(  # half a second between two looks: even on a busy machine one that spins has had its 50 ms in it
    hello=Limit(2.0, 2.5),
    load_stall=2.0,
    stall=2.0,
    end=Limit(2.0, 2.5),
    death=0.5,
    ladder=Ladder(grace=1.0, broken_grace=0.1, term=0.3, abort=0.3),
)
WORKLOAD = Workload(n_prompt=4, n_gen=8)


NOT_STARTED = {"no such program": "/nonexistent/python", "no permission": str(CHILD)}
"""Fault → what is started in place of an interpreter."""


@dataclass(frozen=True)
class Faulty(Interpreter):
    """How to start the child that goes wrong."""

    mark: str
    state: str
    fault: str

    def command(self, module: str, nonce: str) -> list[str]:
        if self.fault in NOT_STARTED:
            return [NOT_STARTED[self.fault], nonce]
        libraries = str(Path(msgpack.__file__).parents[1])
        return [str(self.python), "-I", "-S", str(CHILD), libraries, self.mark, self.state, self.fault, nonce]


@dataclass(frozen=True)
class Found:
    """What came of one injection; nothing in `wrong` if all of it was right."""

    injection: Injection
    ended: str
    seconds: float
    wrong: list[str] = field(default_factory=list)
    left: int = 0
    """Processes."""
    disturbed: int = 0
    """Tries before this one, during which the kernel killed some other process of the machine for want of memory."""


@dataclass(frozen=True)
class Footprint:
    """What this process holds, its watchdog aside."""

    n_descriptors: int
    n_threads: int
    processes: tuple[str, ...]
    folders: tuple[str, ...]

    @classmethod
    def now(cls, watchdog: Watchdog, scratch: Path) -> Footprint:
        below = [p for p in psutil.Process().children(recursive=True) if p.pid != watchdog.pid]
        return cls(
            n_descriptors=len(list(Path("/proc/self/fd").iterdir())),
            n_threads=threading.active_count(),
            processes=tuple(sorted(_named(p) for p in below)),
            folders=tuple(sorted(path.name for place in (scratch, watchdog.folder) for path in place.iterdir())),
        )

    def objections(self, before: Footprint) -> list[str]:
        names = ("n_descriptors", "n_threads", "processes", "folders")
        pairs = [(name, getattr(before, name), getattr(self, name)) for name in names]
        return [f"{name}: {was} before, {found} after" for name, was, found in pairs if found != was]


class Bench:
    """Where launches of this process happen: made once, before the first."""

    def __init__(self, folder: Path, mark: str) -> None:
        self.mark = mark
        become_subreaper()
        self.watchdog = Watchdog()
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.scratch = self.folder / "scratch"
        self.scratch.mkdir()
        tempfile.tempdir = str(self.scratch)

    def inject(self, injection: Injection, misdeed: str | None = None) -> Found:
        """`misdeed`: what the child does in place of what the table says.

        Of one SIGKILL beside another by the kernel nobody can tell which was the kernel's: such a try is repeated.
        """
        for disturbed in range(TRIES):
            kills = OomKills.read()
            found = replace(self._once(injection, misdeed), disturbed=disturbed)
            mistaken = found.wrong and found.ended.startswith("out-of-memory")
            if not (mistaken and OomKills.read().killed_since(kills, by_sigkill=True)):
                break
        return found

    def _once(self, injection: Injection, misdeed: str | None) -> Found:
        interpreter = Faulty(
            Path(sys.executable), engine_environment(), None, {}, self.mark, injection.state, misdeed or injection.fault
        )
        before, started = Footprint.now(self.watchdog, self.scratch), time.monotonic()
        launch = run_launch(self._order(injection), interpreter, lambda text: None, self.watchdog)
        seconds, after = time.monotonic() - started, Footprint.now(self.watchdog, self.scratch)
        wrong = [*misjudged(injection, launch), *after.objections(before)]
        if seconds > BOUND_SECONDS:
            wrong.append(f"took {seconds:.1f} s of at most {BOUND_SECONDS:.0f}")
        return Found(injection, ending(launch.failure), seconds, wrong, len(after.processes))

    def _order(self, injection: Injection) -> LaunchOrder:
        kind = STATES[injection.state].kind
        return LaunchOrder(
            case=Case(engine="faulty", configuration="default", model="none", workload=WORKLOAD),
            kind=kind,
            block=0,
            order=0,
            module="faulty",
            model_path=self.folder / "none.gguf",
            device="cuda" if injection.end.out_of == "device" else "cpu",  # nobody touches one
            threads=1,
            cache=self.folder,
            seed=secrets.randbelow(1 << 30),
            warmup=1,
            iterations=1,
            silence_seconds=SILENCE_SECONDS,
            limits=LIMITS,
            vocab_size=VOCABULARY,
            probe=list(range(128)) if kind == "check" else None,
            meter=Meter(()) if kind == "energy" else None,
            profile_folder=self.folder / "profile" if kind == "profile" else None,
        )


def misjudged(injection: Injection, launch: Launch) -> list[str]:
    """What of the record is not as the table says."""
    expected, failure = injection.end, launch.failure
    if failure is None and expected.reason == OK:
        same = launch.ended == expected.ended
        return [] if same else [f"ended with {launch.ended!r} instead of {expected.ended!r}"]
    if failure is None:
        return [f"ended well instead of with {expected.reason}"]
    if expected.reason == OK:
        return [f"{ending(failure)} where nothing should have happened"]
    wanted = {"reason": expected.reason, "stage": injection.stage, "out_of": expected.out_of, **_code(expected)}
    found = {name: getattr(failure, name) for name in wanted}
    return [f"{name} {found[name]!r} instead of {wanted[name]!r}" for name in wanted if found[name] != wanted[name]]


def ending(failure: Failure | None) -> str:
    if failure is None:
        return "ok"
    return f"{failure.reason} in {failure.stage}: {failure.message}"


def _code(expected: End) -> dict[str, int | None]:
    """A process that ends by itself tells how; of one that we end only that it was not somebody else."""
    if expected.exit_code is not None:
        return {"exit_code": expected.exit_code, "signal": None}
    return {"signal": expected.signal}


def _named(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or f"{process.name()} ({process.status()})"
    except psutil.NoSuchProcess:
        return "gone meanwhile"
