"""What quantising did to a model's answers: an engine's logits against the reference of the weights as they were.

The numbers of llama.cpp's `--kl-divergence`: mean divergence, agreement of the likeliest id, PPL(Q) / PPL(base).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from enginebench_models.fidelity import compare_top, divergence, log_softmax

from enginebench.store.record import ImpactReading

Logits = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def impact(
    original: Logits, candidate: Logits, following: Sequence[int], top_logprobs: int = 0
) -> ImpactReading | None:
    """Both [n, vocab], one row after each position; `following`: the ids after all rows but the last.

    With `top_logprobs` the divergence is a lower bound and there is no perplexity. None where a logit is no number.
    """
    if top_logprobs:
        found = compare_top(original, candidate, top_logprobs)
        if not math.isfinite(found.mean_kld):
            return None
        return ImpactReading(
            mean_kld=found.mean_kld, top1=found.top1, n_positions=len(original), top_logprobs=top_logprobs
        )
    if not np.isfinite(candidate).all():
        return None
    divergences = np.array([divergence(expected, found) for expected, found in zip(original, candidate, strict=True)])
    changes = nll(candidate, following) - nll(original, following)
    ratio = math.exp(changes.mean())
    return ImpactReading(
        mean_kld=float(divergences.mean()),
        mean_kld_error=standard_error(divergences),
        top1=float((original.argmax(axis=1) == candidate.argmax(axis=1)).mean()),
        n_positions=len(original),
        ppl_ratio=ratio,
        ppl_ratio_error=ratio * standard_error(changes),  # the delta method, as llama.cpp
    )


def nll(logits: Logits, following: Sequence[int]) -> Doubles:
    """Of each following id, in nats. [len(following)]"""
    return -np.array([log_softmax(row)[i] for row, i in zip(logits, following, strict=False)])


def standard_error(values: Doubles) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
