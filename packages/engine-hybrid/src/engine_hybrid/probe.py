"""A known state in which two versions of a region are run after each other: do they agree, and which is faster.

Comparison is with torch's result, which is the arbiter here; both are held against the float32 reference elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine_hybrid.model import Llama

TOLERANCE = 0.02
"""Largest difference as a share of the largest value: both round products to 16 bits, bfloat16 by up to 0.4 %."""
ROUNDS, SECONDS = 7, 0.3  # at least as many, and for as long
Call = Callable[[int], None]


class Probe:
    """Random values in the whole state, and half of the cache in use."""

    def __init__(self, llama: Llama) -> None:
        self.llama = llama
        self.position = llama.positions // 2
        vocab_size, device = llama.config.vocab_size, llama.state.x.device
        self.tokens = torch.arange(1, len(llama.state.chunk) + 1, device=device) * 7 % vocab_size

    def fill(self) -> None:
        generator, state = self.generator(), self.llama.state
        for tensor in (state.x, state.queries, state.logits, *self.llama.caches):
            tensor.normal_(generator=generator)
        state.token.fill_(-1)

    def failure(self, region: str, ours: Call, make_theirs: Callable[[], Call]) -> str:
        """Why what `make_theirs` makes cannot stand in for `ours`; "" if it can.

        Whatever goes wrong in a generated kernel or its compiler is a reason here, not a crash.
        """
        self.fill()
        ours(self.position)
        expected = [tensor.clone() for tensor in self.results(region)]
        doing = "share memory"
        try:
            theirs, doing = make_theirs(), "compile"
            theirs(self.position)
            doing = "run"
            self.fill()
            theirs(self.position)
            found = [tensor.clone() for tensor in self.results(region)]
        except Exception as error:  # noqa: BLE001 (any)
            return f"tinygrad's version does not {doing}: {type(error).__name__}: {error}"[:500]
        return disagreement(expected, found)

    def results(self, region: str) -> Sequence[Tensor]:
        """What the region leaves behind. Of the residual stream only what was added: that is the smaller part."""
        state, caches = self.llama.state, self.llama.caches
        if region == "qkv":
            return [state.queries, caches[0][:, :, self.position]]
        if region == "prefill":
            return [state.x, *(cache[:, :, : len(self.tokens)] for cache in caches)]
        if region == "head":
            return [state.logits, state.logits.argmax(-1) == state.token]
        start = torch.empty_like(state.x).normal_(generator=self.generator())
        return [state.x - start]

    def generator(self) -> torch.Generator:
        return torch.Generator(self.llama.state.x.device).manual_seed(0)

    def fastest(self, calls: Sequence[Call]) -> list[float]:
        """Milliseconds of each, taken in turns; the best of the rounds, as noise only ever adds."""
        self.fill()
        for call in calls:
            self.milliseconds(call)  # captures, warms up
        rounds: list[list[float]] = []
        deadline = time.perf_counter() + SECONDS
        while len(rounds) < ROUNDS or time.perf_counter() < deadline:
            rounds.append([self.milliseconds(call) for call in calls])
        return [min(times) for times in zip(*rounds, strict=True)]

    def milliseconds(self, call: Call) -> float:
        started = time.perf_counter()
        call(self.position)
        self.llama.state.x[0, 0].item()  # waits for a device that works on its own
        return (time.perf_counter() - started) * 1e3


def disagreement(expected: Sequence[Tensor], found: Sequence[Tensor]) -> str:
    for one, other in zip(expected, found, strict=True):
        largest = one.float().abs().max().item()
        difference = (one.float() - other.float()).abs().max().item()
        if not difference <= TOLERANCE * largest:  # not a number, too
            return (
                f"tinygrad's version differs from torch's by {difference:.2g}, where the largest value is {largest:.2g}"
            )
    return ""
