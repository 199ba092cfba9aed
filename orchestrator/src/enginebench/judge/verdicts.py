"""Which comparisons a run answers, and the groups of cases that they leave undivided.

Every pair of cases that did the same work is asked, in each of three metrics: nobody chose the pairs by looking. One
metric of one model and workload is a table for Holm's correction. Instruments are compared with nobody, and in a fair
comparison pairs stay within one precision class: what crosses it has a name, like precision impact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Any

import msgspec

from enginebench.store.record import Case, Launch

from .comparison import Comparison, compare_paired, holm
from .evidence import median_of
from .interval import log_mean
from .metrics import LAUNCH_FACTS, first_and_steady

TPOT, TTFT, LOAD = "tpot_ns", "ttft_ns", "load_ns"
WARMUP_IMPROVEMENT = "warm-up improvement"
QUANTISATION = "quantisation impact"
FEWER_BYTES = 0.8
"""A model of the same shape in less than four fifths of the bytes holds its weights in fewer bits."""


@dataclass(frozen=True)
class Candidate:
    """A case that may be compared. `compares`: name → configuration of the same engine that is its base."""

    case: Case
    role: str
    launches: Sequence[Launch]
    compares: Mapping[str, str] = field(default_factory=dict)
    aa_floors: Mapping[str, float] = field(default_factory=dict)
    """Metric → what two equal cases were seen to differ by on this machine, as a share."""
    fair: bool = False
    """It is compared with those of its own precision class only."""

    @property
    def precision(self) -> str | None:
        """As the engine reported it."""
        return next((launch.loaded.precision for launch in self.launches if launch.loaded), None)

    def values(self, metric: str) -> dict[int, float]:
        """Block → the value of its launch."""
        found = {launch.block: METRICS[metric](launch) for launch in self.launches if launch.counts}
        return {block: value for block, value in found.items() if value is not None}


METRICS: dict[str, Callable[[Launch], float | None]] = {
    TPOT: median_of(lambda t: t.tpot_ns),
    TTFT: median_of(lambda t: t.ttft_ns),
    LOAD: LAUNCH_FACTS[LOAD],
}


def pair_comparisons(candidates: Sequence[Candidate]) -> list[Comparison]:
    """Every pair of each group in each metric, corrected and decided."""
    return [
        comparison
        for group in _classes(candidates)
        for metric in METRICS
        for comparison in holm([_compared(base, new, metric) for base, new in combinations(group, 2)])
    ]


def named_comparisons(candidates: Sequence[Candidate], models: Sequence[Mapping[str, Any]] = ()) -> list[Comparison]:
    """What configurations of one engine, the same one with fewer bits, and requests of one process say of each other.

    A table for each metric. `models`: those of the plan, with `name`, `shape` and `file_bytes`.
    """
    pairs = [pair for group in _groups(candidates) for new in group for pair in _named_pairs(new, group)]
    pairs += _quantised_pairs(candidates, {model["name"]: model for model in models})
    by_metric = [holm([_compared(base, new, metric, name) for name, base, new in pairs]) for metric in (TPOT, TTFT)]
    warmed = holm([c for candidate in candidates if (c := _warmup_improvement(candidate)) is not None])
    return [*by_metric[0], *by_metric[1], *warmed]


def rank_groups(candidates: Sequence[Candidate], comparisons: Sequence[Comparison]) -> dict[str, list[int]]:
    """Case id → the groups it belongs to, 1 the fastest decoding. Two cases share a group unless one was told faster.

    A case between two others may be told from neither while they are told apart: it is then in both their groups.
    """
    told = {frozenset((c.base, c.new)) for c in comparisons if c.metric == TPOT and c.verdict in ("FASTER", "SLOWER")}
    ranks: dict[str, list[int]] = {}
    for group in _classes(candidates):
        ordered = [c.case.id for c in sorted((c for c in group if c.values(TPOT)), key=_typical)]
        for rank, members in enumerate(_undivided(ordered, told), start=1):
            for id_ in members:
                ranks.setdefault(id_, []).append(rank)
    return ranks


def decode_times(candidates: Sequence[Candidate]) -> list[list[dict[int, float]]]:
    """For each group of cases that are compared with each other: block → time per token of each."""
    return [[candidate.values(TPOT) for candidate in group] for group in _classes(candidates)]


def _classes(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Cases that are compared with each other: the same work, and in a fair comparison the same precision class."""
    for group in _groups(candidates):
        classes: dict[str | None, list[Candidate]] = {}
        for candidate in group:
            classes.setdefault(candidate.precision if candidate.fair else None, []).append(candidate)
        yield from classes.values()


def _groups(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Cases that did the same work, in the order of the plan."""
    groups: dict[tuple[str, str, str], list[Candidate]] = {}
    for candidate in candidates:
        if candidate.role != "instrument":
            case = candidate.case
            groups.setdefault((candidate.role, case.model, case.workload.name), []).append(candidate)
    yield from groups.values()


def _compared(base: Candidate, new: Candidate, metric: str, name: str | None = None) -> Comparison:
    floors = [floor for candidate in (base, new) if (floor := candidate.aa_floors.get(metric)) is not None]
    return compare_paired(
        base.values(metric),
        new.values(metric),
        base_id=base.case.id,
        new_id=new.case.id,
        metric=metric,
        name=name,
        aa_floor=max(floors, default=None),
    )


def _named_pairs(new: Candidate, group: Sequence[Candidate]) -> Iterator[tuple[str, Candidate, Candidate]]:
    for name, configuration in new.compares.items():
        for base in group:
            if base.case == msgspec.structs.replace(new.case, configuration=configuration):
                yield name, base, new


def _quantised_pairs(
    candidates: Sequence[Candidate], models: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Candidate, Candidate]]:
    """The same configuration on two models of one shape: the larger file is the base."""
    for base, new in permutations((c for c in candidates if c.role != "instrument" and c.case.model in models), 2):
        wide, narrow = models[base.case.model], models[new.case.model]
        same = base.case == msgspec.structs.replace(new.case, model=base.case.model)
        if same and wide["shape"] == narrow["shape"] and narrow["file_bytes"] < FEWER_BYTES * wide["file_bytes"]:
            yield QUANTISATION, base, new


def _warmup_improvement(candidate: Candidate) -> Comparison | None:
    """The first request of each process against its steady ones; None without a launch that has both."""
    first: dict[int, float] = {}
    steady: dict[int, float] = {}
    for launch in candidate.launches:
        pair = first_and_steady(launch) if launch.counts else None
        if pair is not None and launch.requests[0].phase == "warm-up":
            first[launch.block], steady[launch.block] = pair
    if not first:
        return None
    id_ = candidate.case.id
    return compare_paired(first, steady, base_id=id_, new_id=id_, metric="e2e_ns", name=WARMUP_IMPROVEMENT)


def _typical(candidate: Candidate) -> float:
    return log_mean(list(candidate.values(TPOT).values()))


def _undivided(ordered: Sequence[str], told: set[frozenset[str]]) -> list[list[str]]:
    """The largest sets of cases of which no two were told apart (insert and absorb, as compact letter displays)."""
    groups = [list(ordered)] if ordered else []
    for pair in sorted(told, key=sorted):
        groups = [part for group in groups for part in _split(group, pair)]
        groups = [
            g for i, g in enumerate(groups) if not any(_within(g, o, i < j) for j, o in enumerate(groups) if j != i)
        ]
    return sorted(groups, key=lambda group: [ordered.index(id_) for id_ in group])


def _split(group: list[str], pair: frozenset[str]) -> list[list[str]]:
    if not pair <= set(group):
        return [group]
    return [[id_ for id_ in group if id_ != left_out] for left_out in sorted(pair)]


def _within(group: list[str], other: list[str], first: bool) -> bool:
    """Absorbed: a true part of another, or its twin that comes later."""
    return set(group) < set(other) or (set(group) == set(other) and not first)
