"""An answer held against the reference along its own course: how nearly was each chosen id the likeliest?

Following the engine's own ids, so that every step is compared, not only those before a first divergence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enginebench_models.bounds import GREEDY_TOP, bounds
from enginebench_models.storage import Floats


@dataclass(frozen=True)
class Choices:
    """Of each chosen id: `margins` in nats below the reference's likeliest (0: it is that one), `ranks` from 1."""

    margins: tuple[float, ...]
    ranks: tuple[int, ...]


def choices(logits: Floats, ids: Sequence[int]) -> Choices:
    """`logits` [len(ids), vocab]: row i is the reference's, after the prompt and ids[:i]."""
    chosen = logits[np.arange(len(ids)), np.asarray(ids)]
    margins = logits.max(axis=1) - chosen
    ranks = (logits > chosen[:, None]).sum(axis=1) + 1
    return Choices(tuple(map(float, margins)), tuple(map(int, ranks)))


def objections(found: Choices, precision: str) -> list[str]:
    """Empty if every id that is not the reference's likeliest was a near tie for it."""
    bound, reasons = bounds(precision).greedy, []
    worst = int(np.argmax(found.margins))
    if found.margins[worst] >= bound:
        reasons.append(
            f"token {worst + 1} is {found.margins[worst]:.3g} nat below the likeliest, {bound:g} is a near tie"
        )
    if max(found.ranks) > GREEDY_TOP:
        step = found.ranks.index(max(found.ranks)) + 1
        reasons.append(
            f"token {step} is number {max(found.ranks)} of the reference's likeliest, {GREEDY_TOP} are allowed"
        )
    return reasons
