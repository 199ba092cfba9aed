"""Pairs of cases whose true difference is known: real launches, compared as a run with verdicts compares them.

Two sides of one engine take turns in blocks, in a seeded random order. Without an injected slow-down every verdict but
SAME and INCONCLUSIVE is false; with one, every verdict but SLOWER missed it. What the two sides do not share is the
noise of the machine, and with the engine of known speed a launch effect drawn from a log-normal distribution.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginebench.errors import BenchError
from enginebench.judge.comparison import Comparison, compare_paired
from enginebench.judge.evidence import median_of
from enginebench.judge.stopping import look
from enginebench.machine.watch import Watch
from enginebench.plan.plan import PRESETS
from enginebench.run.launch import run_launch
from enginebench.run.order import LaunchOrder
from enginebench.store.record import Case, Launch, Workload
from enginebench.workspace.discovery import EngineInfo
from enginebench.workspace.environment import Interpreter

SILENCE_SECONDS = 120.0
BASE, NEW = "base", "new"


@dataclass(frozen=True)
class Subject:
    """What is launched on both sides of a pair."""

    info: EngineInfo
    configuration: str
    interpreter: Interpreter
    model: str
    model_path: Path
    device: str
    threads: int
    cache: Path
    workload: Workload
    warmup: int
    iterations: int

    @property
    def case(self) -> Case:
        return Case(engine=self.info.name, configuration=self.configuration, model=self.model, workload=self.workload)


@dataclass(frozen=True)
class Injected:
    """The new side is slower by `slowdown` (0.02 is 2 %); each launch of either side by its own luck."""

    slowdown: float = 0.0
    launch_cv: float = 0.0


@dataclass(frozen=True)
class Tally:
    """Verdicts over many pairs of one kind."""

    injected: Injected
    launches: int
    verdicts: Counter[str]

    @property
    def pairs(self) -> int:
        return self.verdicts.total()

    @property
    def false_rate(self) -> float:
        """Share of pairs with a verdict that contradicts what was injected."""
        false = {"FASTER"} if self.injected.slowdown else {"FASTER", "SLOWER"}
        return sum(self.verdicts[name] for name in false) / self.pairs

    @property
    def detection_rate(self) -> float:
        return self.verdicts["SLOWER"] / self.pairs


def tally(
    subject: Subject, injected: Injected, pairs: int, launches: int, seed: int, say: Callable[[str], None]
) -> tuple[Tally, list[Comparison]]:
    """`pairs` independent comparisons of at least `launches` launches on each side."""
    draw = random.Random(f"selftest:{seed}:{injected}")  # noqa: S311 (not for secrets)
    comparisons = []
    for number in range(pairs):
        say(f"pair {number + 1}/{pairs}, {injected.slowdown:.0%} slower, launch CV {injected.launch_cv:.0%}")
        comparisons.append(compared(subject, injected, launches, draw))
    return Tally(injected, launches, Counter(c.verdict for c in comparisons)), comparisons


def compared(subject: Subject, injected: Injected, launches: int, draw: random.Random) -> Comparison:
    """One pair, judged alone: each pair of the tally is a table of its own. It goes on as `standard` does, until the
    ratio is known well enough."""
    values: dict[str, dict[int, float]] = {BASE: {}, NEW: {}}
    rule, done, wanted = PRESETS["standard"].stopping, 0, launches
    while done < wanted:
        for block in range(done, wanted):
            _block(subject, injected, block, values, draw)
        done = wanted
        if rule and look(rule, [[values[BASE], values[NEW]]], done).why is None:
            wanted = min(rule.most, done + rule.step)
    return compare_paired(values[BASE], values[NEW], base_id=BASE, new_id=NEW, metric="tpot_ns")


def _block(
    subject: Subject, injected: Injected, block: int, values: dict[str, dict[int, float]], draw: random.Random
) -> None:
    for order, side in enumerate(draw.sample([BASE, NEW], 2)):
        value = time_per_token(launched(subject, block, order, _options(subject, injected, side, draw)))
        if value is not None:
            values[side][block] = value


def _options(subject: Subject, injected: Injected, side: str, draw: random.Random) -> dict[str, str]:
    """Only the engine of known speed can be told how fast to be."""
    if "pace" not in subject.info.options:
        return {}
    luck = draw.gauss(0, injected.launch_cv)
    slower = injected.slowdown if side == NEW else 0.0
    return {"pace": repr((1 + slower) * math.exp(luck)), "seed": str(draw.getrandbits(32))}


def launched(
    subject: Subject, block: int, order: int, options: Mapping[str, str], watch: Watch | None = None
) -> Launch:
    return run_launch(
        LaunchOrder(
            case=subject.case,
            kind="timed",
            block=block,
            order=order,
            module=subject.info.module,
            model_path=subject.model_path,
            device=subject.device,
            threads=subject.threads,
            cache=subject.cache,
            seed=0,
            warmup=subject.warmup,
            iterations=subject.iterations,
            silence_seconds=SILENCE_SECONDS,
            options=options,
            watch=watch,
        ),
        subject.interpreter,
        lambda text: None,
    )


def time_per_token(launch: Launch) -> float | None:
    """The launch value in ns; None where no request is free of doubt. Raises BenchError for a launch that failed: the
    engines here are sound, so something else is broken.
    """
    if launch.failure is not None:
        raise BenchError(f"{launch.case.label} failed in the self-test: {launch.failure.message}")
    return median_of(lambda timing: timing.tpot_ns)(launch)


def floor_of(comparisons: Sequence[Comparison]) -> float:
    """The A/A floor: the 95th percentile of |ratio - 1| over self-comparisons (method M6)."""
    distances = sorted(abs(math.log(c.ratio)) for c in comparisons if c.ratio is not None)
    if not distances:
        raise BenchError("no self-comparison has a ratio")
    return math.expm1(distances[min(len(distances) - 1, math.ceil(0.95 * len(distances)) - 1)])
