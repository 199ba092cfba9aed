"""engine-hybrid against the two libraries that it is made of (`just selfbench hybrid`)."""

from __future__ import annotations

from bench import Bench, Row, ratio_row


def hybrid(bench: Bench) -> list[Row]:
    """`auto` must hold against both, so against the better of them."""
    auto, torch, tinygrad = bench.duel(
        bench.contender("hybrid", "auto"),
        bench.contender("torch", "half"),
        bench.contender("tinygrad", "default"),
    )
    return [ratio_row(auto, torch, 0.97), ratio_row(auto, tinygrad, 0.97)]


PARTS = {"hybrid": hybrid}
