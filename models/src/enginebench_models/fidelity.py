"""Is an engine's answer right? Its logits against the float32 reference of the very same weights.

KL divergence per position is what the difference does to the predicted distribution (llama.cpp's
`--kl-divergence`); the largest logit error is what rounding alone does not explain in float32.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enginebench_models.bounds import BLOCKS, CLEAR_MARGIN, FLOAT32, QUANTISED, SIXTEEN_BIT, Bounds, bounds
from enginebench_models.storage import Floats

PROBE_PREFILL, PROBE_DECODE = 64, 64

FLOAT32_MAX_LOGIT_ERROR = FLOAT32.shifted_logit
MEAN_KLD_16_BIT = SIXTEEN_BIT.mean_kld
MEAN_KLD_QUANTISED = BLOCKS.mean_kld
"""llama.cpp's Q4_K_M of the synthetic 1B model needs a third of this, the negative controls more than twice as much."""

OVERLAP_16_BIT, OVERLAP_QUANTISED = 0.95, 0.9
"""Of the likeliest ids. Logit noise that gives a mean KL divergence of 1e-3 leaves 0.975 of them on the synthetic
models, 5e-3 leaves 0.95."""

LARGEST_SUM = 1.001
SMALLEST_REST = 1e-6
"""What float32 log-probabilities leave uncertain of a sum of 1."""


@dataclass(frozen=True)
class Fidelity:
    """Distance of a candidate from the reference: nats, a share, logits. Infinite where a logit is not a number.

    With `top_logprobs` the candidate told so many log-probabilities per position, and this is the weaker check of
    `compare_top`: the divergences are lower bounds, `max_abs_logit` is an error of log-probabilities, and `overlap`
    is the share of the reference's likeliest ids among them.
    """

    mean_kld: float
    max_kld: float
    top1: float
    max_abs_logit: float
    n_positions: int
    top_logprobs: int = 0
    overlap: float | None = None
    kld_999: float | None = None
    """99.9 % quantile: of few positions nearly the largest."""
    top1_clear: float | None = None
    """Agreement where the reference prefers its likeliest id by CLEAR_MARGIN or more; None without such a position."""
    max_shifted_logit: float | None = None
    """Largest logit error after removing the mean shift of each position, which changes no probability."""


@dataclass(frozen=True)
class Verdict:
    """`reasons` says what failed, with the number and the bound; empty when passed."""

    passed: bool
    reasons: tuple[str, ...]


def probe_ids(vocab_size: int, n: int, seed: int = 0) -> list[int]:
    """`n` token ids, the same on every machine (raw Philox bits), over the whole vocabulary."""
    words = np.random.Philox(key=seed).random_raw(n)
    return [int(word) for word in words % np.uint64(vocab_size)]


def compare(reference: Floats, candidate: npt.NDArray[np.floating], n_top: int = 0) -> Fidelity:
    """Both [n, vocab]. Raises ValueError for other shapes: that is an engine's error, not its imprecision.

    With `n_top` the candidate tells so many log-probabilities of a row, and `compare_top` does it.
    """
    if n_top:
        return compare_top(reference, candidate, n_top)
    if reference.shape != candidate.shape or reference.ndim != 2:
        raise ValueError(
            f"Logits of shape {list(candidate.shape)} came, {list(reference.shape)} were expected: "
            "one row after the prefill and one per decoded token, one column per token of the vocabulary."
        )
    if not np.isfinite(candidate).all():
        return Fidelity(math.inf, math.inf, 0.0, math.inf, len(reference))
    divergences = [divergence(expected, found) for expected, found in zip(reference, candidate, strict=True)]
    agreement = reference.argmax(axis=1) == candidate.argmax(axis=1)
    error = np.abs(reference - candidate.astype(np.float32)).max()
    return Fidelity(
        mean_kld=float(np.mean(divergences)),
        max_kld=float(np.max(divergences)),
        top1=float(agreement.mean()),
        max_abs_logit=float(error),
        n_positions=len(reference),
        kld_999=float(np.quantile(divergences, 0.999)),
        top1_clear=clear_agreement(reference, agreement),
        max_shifted_logit=max(map(shifted_error, reference, candidate)),
    )


def clear_agreement(reference: Floats, agreement: npt.NDArray[np.bool_]) -> float | None:
    """Share of agreeing positions among those where the reference is clear."""
    second, first = np.partition(reference, -2, axis=1)[:, -2:].T
    clear = first - second >= CLEAR_MARGIN
    return float(agreement[clear].mean()) if clear.any() else None


def shifted_error(expected: Floats, found: npt.NDArray[np.floating]) -> float:
    error = found.astype(np.float64) - expected
    return float(np.abs(error - error.mean()).max())


def compare_top(reference: Floats, candidate: npt.NDArray[np.floating], n_top: int) -> Fidelity:
    """`candidate` [n, vocab] holds the log-probabilities of the `n_top` likeliest ids of a row and NaN elsewhere.

    All other ids count as one outcome. Merging outcomes can only lower a KL divergence (data processing inequality),
    so what comes out is a lower bound of what `compare` would find.
    """
    if reference.shape != candidate.shape or reference.ndim != 2:
        raise ValueError(f"Rows of shape {list(candidate.shape)} came, {list(reference.shape)} were expected.")
    told = [np.flatnonzero(np.isfinite(row)) for row in candidate]
    sums = np.nansum(np.exp(candidate.astype(np.float64)), axis=1)
    if any(len(ids) != n_top for ids in told) or np.isinf(candidate).any() or (sums > LARGEST_SUM).any():
        return Fidelity(math.inf, math.inf, 0.0, math.inf, len(reference), n_top, 0.0)
    log_p = [log_softmax(row) for row in reference]
    rows = list(zip(log_p, candidate.astype(np.float64), told, strict=True))
    divergences = [merged_divergence(p[ids], q[ids]) for p, q, ids in rows]
    agreement = np.array([p.argmax() == ids[q[ids].argmax()] for p, q, ids in rows])
    return Fidelity(
        mean_kld=float(np.mean(divergences)),
        max_kld=float(np.max(divergences)),
        top1=float(agreement.mean()),
        kld_999=float(np.quantile(divergences, 0.999)),
        top1_clear=clear_agreement(reference, agreement),
        max_abs_logit=float(max(np.abs(p[ids] - q[ids]).max() for p, q, ids in rows)),
        n_positions=len(reference),
        top_logprobs=n_top,
        overlap=float(np.mean([np.isin(np.argpartition(-p, n_top)[:n_top], ids).mean() for p, _, ids in rows])),
    )


def merged_divergence(log_p: npt.NDArray[np.float64], log_q: npt.NDArray[np.float64]) -> float:
    """KL divergence in nats of the distributions over these ids and one more outcome that takes what they leave."""
    rest_p, rest_q = (max(1.0 - float(np.exp(logs).sum()), SMALLEST_REST) for logs in (log_p, log_q))
    return float(np.sum(np.exp(log_p) * (log_p - log_q))) + rest_p * math.log(rest_p / rest_q)


def divergence(expected: Floats, found: npt.NDArray[np.floating]) -> float:
    """KL divergence of the softmax of `found` from that of `expected`, in nats."""
    log_p, log_q = log_softmax(expected), log_softmax(found)
    return float(np.sum(np.exp(log_p) * (log_p - log_q)))


def log_softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def gate(fidelity: Fidelity, precision: str) -> Verdict:
    """The gate of a precision class: "float32", a block format that is computed with ("q8_0"), or 16 bits."""
    numbers = (fidelity.mean_kld, fidelity.max_kld, fidelity.max_abs_logit)
    if not all(math.isfinite(number) for number in numbers):
        return Verdict(False, ("the logits hold NaN or infinity",))
    reasons = float32_reasons(fidelity) if precision == "float32" else divergence_reasons(fidelity, precision)
    reasons += clear_reasons(fidelity, bounds(precision))
    overlap = OVERLAP_QUANTISED if precision in QUANTISED else OVERLAP_16_BIT
    if fidelity.overlap is not None and fidelity.overlap < overlap:
        reasons.append(f"{fidelity.overlap:.1%} of the likeliest ids are the reference's, {overlap:.0%} are asked for")
    return Verdict(not reasons, tuple(reasons))


def float32_reasons(fidelity: Fidelity) -> list[str]:
    reasons = []
    if fidelity.max_abs_logit > FLOAT32_MAX_LOGIT_ERROR:
        reasons.append(f"largest logit error {fidelity.max_abs_logit:.2g} > {FLOAT32_MAX_LOGIT_ERROR:g}")
    if fidelity.top1 < 1.0:
        reasons.append(f"most likely token agrees at {fidelity.top1:.1%} of the positions, 100 % is asked for")
    return reasons


def clear_reasons(fidelity: Fidelity, bound: Bounds) -> list[str]:
    """G1b and G1c of the ladder, on the positions of the probe."""
    reasons = []
    agreed, error = fidelity.top1_clear, fidelity.max_shifted_logit
    if agreed is not None and agreed < bound.top1_clear:
        reasons.append(
            f"clear likeliest tokens agree at {agreed:.1%} of their positions, {bound.top1_clear:.0%} is asked for"
        )
    if error is not None and error > bound.shifted_logit:
        reasons.append(f"logit error beyond a shift {error:.2g} > {bound.shifted_logit:g}")
    return reasons


def divergence_reasons(fidelity: Fidelity, precision: str) -> list[str]:
    bound = MEAN_KLD_QUANTISED if precision in QUANTISED else MEAN_KLD_16_BIT
    if fidelity.mean_kld > bound:
        return [f"mean KL divergence {fidelity.mean_kld:.2g} > {bound:g} nat"]
    return []
