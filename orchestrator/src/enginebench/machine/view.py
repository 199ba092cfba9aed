"""What a noise gate is, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from enginebench.store.surroundings import GpuState, NoiseSnapshot

from .facts import Environment


@dataclass(frozen=True)
class Sight:
    """`fired` None: it cannot be read here, and `seen` says what is missing. `value` orders sights of one gate."""

    fired: bool | None
    seen: str
    value: float = 0.0


@dataclass(frozen=True)
class Worked:
    """What a process tree did between two moments (differences of store.surroundings.ProcessCounters)."""

    cpu_ns: int
    major_faults: int
    involuntary_switches: int


@dataclass(frozen=True)
class View:
    """The facts of the machine, a moment before the work, and the time from `start` to `end` while it was done."""

    machine: Environment | None = None
    now: NoiseSnapshot | None = None
    start: NoiseSnapshot | None = None
    end: NoiseSnapshot | None = None
    engine: Worked | None = None
    harness_cpu_ns: int | None = None
    gpu_after_requests: tuple[GpuState, ...] = ()

    @property
    def seconds(self) -> float | None:
        """From start to end."""
        if self.start is None or self.end is None or self.start.t_ns is None or self.end.t_ns is None:
            return None
        return (self.end.t_ns - self.start.t_ns) / 1e9


@dataclass(frozen=True)
class Gate:
    """`why`: what it does to a number. `remedy`: what the user can do about it."""

    name: str
    severity: Literal["warn", "invalid"]
    look: Callable[[View], Sight]
    why: str
    remedy: str


def unreadable(what: str) -> Sight:
    return Sight(None, what)
