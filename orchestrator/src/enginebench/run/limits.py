"""How long an engine may take for each state of a launch: without a sign of life, and altogether.

Signs of life are frames, processor time of its process tree, bytes read, use of the GPU (`machine.liveness`). One that
only sleeps is a hang when the stall limit is over; one that compiles or reads is waited for until the deadline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

STALL_FLOOR, DEADLINE_FLOOR, USUAL_TIMES = 30.0, 120.0, 50.0
"""A measured request may take 50 times what the warm-up took, and these at least (method R6)."""
LOAD_SILENCES = 4.0
"""A load that tells of its progress may take so many times the silence that the user allows."""


@dataclass(frozen=True)
class Limit:
    """Seconds."""

    stall: float
    """Without any sign of life."""
    deadline: float
    """Altogether, however alive."""


@dataclass(frozen=True)
class Ladder:
    """Seconds that a process has to end after each step of the kill ladder; see `process`."""

    grace: float = 5.0
    """After its requests ended in good order; one that broke off has `broken_grace`."""
    broken_grace: float = 0.2
    term: float = 5.0
    abort: float = 2.0
    """To write down where it hangs."""
    reap: float = 10.0
    """After SIGKILL; what is there still cannot be removed."""
    helpers: float = 1.0
    """After the end of an engine: some processes below it unlink its shared memory then."""
    sweep: float = 5.0
    """For what it left behind."""

    @property
    def longest(self) -> float:
        return max(self.grace, self.broken_grace) + self.term + self.abort + self.reap + self.helpers + self.sweep


@dataclass(frozen=True)
class Limits:
    """Stall limits in seconds (method R6). The user's `--silence` bounds them all, and is the deadline of an answer."""

    hello: Limit = Limit(30.0, 180.0)
    load_stall: float = 300.0
    stall: float = 120.0
    """Of a request and of every other question: the first token may be compiled for."""
    end: Limit = Limit(60.0, 300.0)
    """unload, shutdown"""
    death: float = 2.0
    """From the end of its stream to the end of the process; one that is there still has closed its pipes."""
    ladder: Ladder = field(default_factory=Ladder)

    def of(self, stage: str, silence: float, usual: float | None = None) -> Limit:
        """`usual`: seconds of a request like this one, None while one may compile."""
        match stage:
            case "hello":
                limit = self.hello
            case "load":
                return Limit(min(self.load_stall, silence), LOAD_SILENCES * silence)
            case "unload" | "shutdown":
                limit = self.end
            case "reply":  # of a chat, a frame for each token: it may be as long as the model likes
                return Limit(min(self.stall, silence), math.inf)
            case _ if usual is not None:
                limit = Limit(
                    min(self.stall, max(STALL_FLOOR, USUAL_TIMES * usual)), max(DEADLINE_FLOOR, USUAL_TIMES * usual)
                )
            case _:
                limit = Limit(self.stall, silence)
        return Limit(min(limit.stall, silence), min(limit.deadline, silence))
