"""The parts of the self-test, by the name they have on the command line; each can be measured alone."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from enginebench_protocol.host import cache_folder

from enginebench.machine import facts as machine
from enginebench.store.aa_floor import Floor, keep, place_of
from enginebench.store.record import Workload

from . import known_speed
from .gate_faults import gate_rows
from .looking import probe_rows
from .many_runs import store_rows
from .page import Part, Row, part
from .pairs import Injected, Subject, floor_of, tally
from .probe_cost import launches_of
from .published import published_rows
from .simulated import coverage_rows, verdict_rows
from .subjects import of_engine, of_known_speed

Say = Callable[[str], None]
FEWEST_PAIRS_OF_A_FLOOR = 10
"""Self-comparisons below which nothing is kept (method M6)."""
SCRIPTED_TOKENS = 12
"""Of 1 ms each: a request of the engine of known speed must be short, for thousands are made."""


@dataclass(frozen=True)
class Effort:
    """How much to spend: real comparisons and their launches, simulated experiments. `engine` is for the A/A test."""

    pairs: int
    launches: int
    experiments: int
    engine: str | None
    model: str
    workload: Workload
    """Of the real engine: a floor holds for its workload."""


def speed(effort: Effort, say: Say) -> Part:
    """The engine of known speed, paired with itself."""
    subject = of_known_speed(Workload(n_prompt=8, n_gen=SCRIPTED_TOKENS), iterations=3)
    rows = known_speed.false_verdicts(subject, effort.pairs, effort.launches, say)
    rows += known_speed.detected(subject, max(1, effort.pairs // 4), effort.launches, 0.01, say)
    n_gen, requests = subject.workload.n_gen, subject.iterations
    return part(rows, f"{subject.info.package}, {requests} requests of {n_gen} tokens in each launch")


def engine(effort: Effort, say: Say) -> Part:
    """A real engine against itself. Its floor is what a difference must exceed to mean anything on this machine."""
    subject = of_engine(effort.engine, effort.model, effort.workload)
    found, comparisons = tally(subject, Injected(), effort.pairs, effort.launches, 3, say)
    share = floor_of(comparisons)
    if found.pairs >= FEWEST_PAIRS_OF_A_FLOOR:
        _keep(subject, share, found.pairs)
    false = round(found.false_rate * found.pairs)
    rows = [
        Row(
            what=f"false verdicts, {subject.case.label} against itself, {effort.launches} launches",
            value=f"{false} of {found.pairs} ({_words(found.verdicts)})",
            target="0",
            passed=false == 0,
        ),
        Row(
            what=f"A/A floor of {subject.case.label} (95 % of the ratios are nearer to 1)",
            value=f"{share:.2%}",
            target="",
            passed=True,
        ),
    ]
    return part(rows, f"{subject.model}, {subject.workload.name}, {subject.threads} threads")


def _keep(subject: Subject, share: float, pairs: int) -> None:
    """For the runs of the same case on this machine."""
    found = machine.environment()
    place = place_of(subject.case, found, subject.device, subject.threads)
    keep(cache_folder(), Floor(place=place, shares={"tpot_ns": share}, pairs=pairs, date=found["date"]))


def gates(effort: Effort, say: Say) -> Part:
    """Each noise gate by an injected fault."""
    return part(gate_rows(), "facts of an imagined machine")


def published(effort: Effort, say: Say) -> Part:
    """The plausibility gate on numbers of others."""
    return part(published_rows(), "premAI/benchmarks, and the table this suite descends from")


def probe(effort: Effort, say: Say) -> Part:
    """The engine of known speed with the noise snapshots and without, in pairs."""
    subject = of_known_speed(Workload(n_prompt=32, n_gen=200), iterations=10)
    found = probe_rows(effort.pairs, launches_of(subject))
    return part(found, "engine of known speed, 10 requests of 200 tokens in each launch")


def intervals(effort: Effort, say: Say) -> Part:
    """Coverage, false verdicts and detection by simulation."""
    rows = [*coverage_rows(effort.experiments, say), *verdict_rows(max(1, effort.experiments // 5), say)]
    return part(rows, "log-normal launches, fixed seed")


def store(effort: Effort, say: Say) -> Part:
    """Queries over many copies of one small run."""
    with tempfile.TemporaryDirectory(prefix="enginebench-") as folder:
        template = known_speed.stored_run(Path(folder))
        size = (template / "result.json").stat().st_size
        return part(store_rows(template, say), f"copies of a run of two cases, {size / 1e3:.0f} kB each")


PARTS: Mapping[str, Callable[[Effort, Say], Part]] = {
    "intervals": intervals,
    "gates": gates,
    "probe": probe,
    "published": published,
    "store": store,
    "speed": speed,
    "engine": engine,
}


def _words(verdicts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(verdicts.items()))
