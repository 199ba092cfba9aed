"""Drawing a token id from logits: softmax at a temperature, one uniform per token, the inverse of the cumulative sum.

For engines with a loop of their own, so that all of them draw alike; those that sample inside their library seed that.
No top-k, no top-p: every id keeps its probability. Greedy decoding does not come here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Choose = Callable[[npt.NDArray[np.float32]], int]
"""Logits [vocab] of the next position → its id. Keeps count: every call is the next position."""

SMALLEST = 1e-30
"""A temperature that float32 can divide by; any difference of logits over it is an infinity."""


BLOCK = 512
"""Ids summed at once. A draw of 128 k ids takes 0.13 ms, with a running sum over all 1.5 ms (AMD EPYC, NumPy 2.4)."""


def chooser(temperature: float, seed: int) -> Choose:
    """For one request: the largest logit at temperature 0 (the lowest id among equals), else a draw."""
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    rng = generator(seed)
    return lambda logits: draw(logits, temperature, rng)


def generator(seed: int) -> np.random.Generator:
    """Philox, counter-based: the same numbers from the same seed on every machine."""
    return np.random.Generator(np.random.Philox(seed))


def draw(logits: npt.NDArray[np.float32], temperature: float, rng: np.random.Generator) -> int:
    """An id from softmax(logits [vocab] / temperature), `temperature` above 0. Raises ValueError on NaN and +inf."""
    scale = np.float32(max(temperature, SMALLEST))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # far below the largest is zero
        weights = logits - logits.max()
        weights /= scale  # in place: each new array of this size may cost more, in page faults, than its values
        np.exp(weights, out=weights)
    sums = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK), dtype=np.float64).cumsum()
    if not sums[-1] >= 1:  # the largest logit alone weighs 1
        raise ValueError("the logits hold NaN or infinity: nothing can be drawn from them")
    return _inverse(weights, sums, rng.random() * float(sums[-1]))


def _inverse(weights: npt.NDArray[np.float32], sums: npt.NDArray[np.float64], target: float) -> int:
    """The first id up to which the weights sum to more than `target`; `sums`: up to the end of each block."""
    block = int(sums.searchsorted(target, side="right"))
    before = float(sums[block - 1]) if block else 0.0
    within = weights[BLOCK * block : BLOCK * (block + 1)].astype(np.float64).cumsum()
    rest = min(target - before, np.nextafter(within[-1], 0.0))  # summed in another order, it may round to less
    return BLOCK * block + int(within.searchsorted(rest, side="right"))
