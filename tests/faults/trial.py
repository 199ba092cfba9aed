"""What is tried: an orchestrator in a state, how it is killed, how its engine stands still, what that leaves behind.

The dice are seeded: the same seed gives the same trials.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

AT_ENGINE = ("versions", "spawn", "load", "request 1", "memory", "request 2", "request 3", "unload", "shutdown")
IN_SECOND_LAUNCH = ("timed load", "timed request 2")
JUDGED = ("score", "judging")
ALONE = ("start", "model check", "watchdog starts", "sync", "between launches", "result", "anywhere")
RUN_STATES = (*AT_ENGINE, *IN_SECOND_LAUNCH, "profile", *JUDGED, *ALONE)
OTHERS = ("prompt load", "prompt answer", "chat answer", "chat idle", "conform load")
STATES = (*RUN_STATES, *OTHERS)
KILLS = ("orchestrator", "its group", "SIGTERM", "hang-up", "Ctrl-C", "Ctrl-C twice", "with its watchdog")
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


def state_of_engine(state: str) -> str:
    """Where the stand-in stops."""
    known = {
        "judging": "ended",
        "between launches": "ended",
        "timed load": "load",
        "timed request 2": "request 2",
        "prompt load": "load",
        "conform load": "load",
        "prompt answer": "request 1",
        "chat answer": "request 1",
    }
    return known.get(state, state if state in (*AT_ENGINE, "profile", "score", "sync") else "")


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
