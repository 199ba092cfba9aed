"""Which library runs which region: all in tinygrad, or (`auto`) each where it is faster; torch where tinygrad fails.

A region whose tinygrad version does not compile, does not run or does not agree stays with torch, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from engine_hybrid.decoding import Decoder, Prefill, Step
from engine_hybrid.model import Llama
from engine_hybrid.pieces import ChunkPiece, Piece, assembled, prefill_in_tinygrad, prefill_in_torch, torch_call
from engine_hybrid.probe import Probe
from engine_hybrid.tinygrad_regions import REGIONS, Shared

DECODE_REGIONS = (*REGIONS, "head")
ALL_REGIONS = ("prefill", *DECODE_REGIONS)
TIMED_LAYERS = 4  # of the 1B model: more than a processor's cache holds


@dataclass(frozen=True)
class Plan:
    """`where` says of each region who runs it and why, for people."""

    decoder: Decoder
    where: dict[str, str]


def planned(llama: Llama, lanes: int, timed: bool, progress: Callable[[float], None]) -> Plan:
    """Every region in tinygrad, or (`timed`) where it is faster; in torch where tinygrad fails."""
    trial = Trial(Versions(llama, lanes))
    passed = []
    for done, region in enumerate(ALL_REGIONS, 1):
        passed += [region] if trial.passes(region) else []
        progress(0.6 * done / len(ALL_REGIONS))
    plan = trial.fastest(passed) if timed else trial.together(passed)
    progress(1.0)
    return plan


class Versions:
    """Both versions of everything that a plan chooses from, over the same memory."""

    def __init__(self, llama: Llama, lanes: int) -> None:
        self.llama, self.lanes = llama, lanes

    @cached_property
    def views(self) -> Shared:
        return Shared(self.llama, self.lanes)

    @cached_property
    def chunk(self) -> ChunkPiece:
        return ChunkPiece(self.views)

    def prefill(self, library: str) -> Prefill:
        if library == "torch":
            return partial(prefill_in_torch, self.llama)
        return partial(prefill_in_tinygrad, self.llama, self.chunk)

    def region(self, library: str, region: str, layer: int) -> Step:
        if library == "torch":
            return torch_call(self.llama, region, layer)
        return Piece(self.views, [(region, layer)])

    def head(self, library: str) -> Step:
        return self.region(library, "head", len(self.llama.weights.layers))

    def whole(self, in_tinygrad: Iterable[str]) -> list[Step]:
        """One decode step; tinygrad's regions are joined where they are neighbours."""
        chosen = set(in_tinygrad)
        return assembled(self.llama, self.views if chosen else None, chosen)


class Trial:
    """What is found out about each region (`notes`) and about whole steps (`whole`), and the plans that follow."""

    def __init__(self, versions: Versions) -> None:
        self.versions, self.probe = versions, Probe(versions.llama)
        self.notes: dict[str, str] = {}
        self.whole = ""

    def passes(self, region: str) -> bool:
        """Whether tinygrad's version of the region can stand in for torch's."""
        ours = self.call("torch", region, n_layers=1)
        self.notes[region] = self.probe.failure(region, ours, lambda: self.call("tinygrad", region, n_layers=1))
        return not self.notes[region]

    def is_faster(self, region: str) -> bool:
        """Whether tinygrad's version, called by itself in each layer, is faster than torch's."""
        calls = [self.call(library, region, TIMED_LAYERS) for library in ("torch", "tinygrad")]
        in_torch, in_tinygrad = self.probe.fastest(calls)
        self.notes[region] = f"torch {in_torch:.2f} ms, tinygrad {in_tinygrad:.2f} ms"
        return in_tinygrad < in_torch

    def call(self, library: str, region: str, n_layers: int) -> Step:
        """The region in the first n_layers layers, in the state of the probe."""
        if region == "prefill":
            prefill = self.versions.prefill(library)
            return lambda position: prefill(self.probe.tokens)
        if region == "head":
            return self.versions.head(library)
        layers = range(min(n_layers, len(self.versions.llama.weights.layers)))
        return in_a_row([self.versions.region(library, region, layer) for layer in layers])

    def together(self, passed: Sequence[str]) -> Plan:
        """All that passed in tinygrad."""
        return self.plan(passed, self.joined(without_prefill(passed)))

    def fastest(self, passed: Sequence[str]) -> Plan:
        """Per region the faster version, unless one library alone, with all it can do joined, is faster still."""
        chosen = [region for region in passed if self.is_faster(region)]
        steps = {way: self.joined(way) for way in map(without_prefill, ((), chosen, passed))}
        times = dict(zip(steps, self.probe.fastest([in_a_row(calls) for calls in steps.values()]), strict=True))
        self.whole = "; ".join(f"{in_words(way)}: {ms:.1f} ms" for way, ms in times.items())
        best = min(times, key=lambda way: times[way])
        return self.plan([*best, *(region for region in chosen if region == "prefill")], steps[best])

    def joined(self, in_tinygrad: Sequence[str]) -> list[Step]:
        """A whole decode step; in torch if its regions pass one by one but not together."""
        in_torch, steps = self.versions.whole(()), self.versions.whole(in_tinygrad)
        if not in_tinygrad:
            return in_torch
        reason = self.probe.failure("head", in_a_row(in_torch), lambda: in_a_row(steps))
        self.notes |= dict.fromkeys(in_tinygrad if reason else (), f"joined, {reason}")
        return in_torch if reason else steps

    def plan(self, in_tinygrad: Sequence[str], steps: Sequence[Step]) -> Plan:
        really = {region for step in steps if isinstance(step, Piece) for region, _ in step.steps}
        really |= {region for region in in_tinygrad if region == "prefill"}
        library = {region: "tinygrad" if region in really else "torch" for region in ALL_REGIONS}
        prefill, head = self.versions.prefill(library["prefill"]), self.versions.head(library["head"])
        head(self.probe.position)  # captured now, not in the first request
        where = {region: f"{who} ({self.notes.get(region, '')})".removesuffix(" ()") for region, who in library.items()}
        return Plan(
            Decoder(self.versions.llama, prefill, head, steps),
            where | ({"whole step": self.whole} if self.whole else {}),
        )


def without_prefill(regions: Iterable[str]) -> tuple[str, ...]:
    return tuple(region for region in regions if region != "prefill")


def in_words(in_tinygrad: Sequence[str]) -> str:
    return " + ".join(in_tinygrad) + " in tinygrad" if in_tinygrad else "all in torch"


def in_a_row(calls: Sequence[Step]) -> Step:
    def run(position: int) -> None:
        for call in calls:
            call(position)

    return run
