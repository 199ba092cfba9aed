"""How far an engine's numbers may lie from the reference's, for each class of precision.

A bound is the larger of method.md's proposal and three times the distance between trusted implementations of the same
file; what was measured stands in docs/methodology.md, section 5.
"""

from dataclasses import dataclass

from enginebench_models.storage import GGML

CLEAR_MARGIN = 0.2
"""Nats between the likeliest and the second id: from here on rounding must not change which is which. Rounding every
intermediate result to bfloat16 does so at up to 0.13 nat in 8192 positions."""
GREEDY_TOP = 5
"""A choice that differs from the reference's must be among so many of its likeliest."""
QUANTISED = frozenset(storage.name for storage in GGML.values() if storage.block > 1)


@dataclass(frozen=True)
class Bounds:
    """Nats, logits and shares. `ln_ppl` is kept beyond its paired error only; `greedy` is the margin of a near tie."""

    mean_kld: float
    kld_999: float
    top1_clear: float
    shifted_logit: float
    ln_ppl: float
    greedy: float


FLOAT32 = Bounds(mean_kld=1e-6, kld_999=1e-4, top1_clear=1.0, shifted_logit=1e-3, ln_ppl=1e-5, greedy=2e-3)
SIXTEEN_BIT = Bounds(mean_kld=1e-3, kld_999=1e-2, top1_clear=1.0, shifted_logit=0.5, ln_ppl=1e-3, greedy=CLEAR_MARGIN)
BLOCKS = Bounds(mean_kld=5e-3, kld_999=5e-2, top1_clear=0.98, shifted_logit=1.0, ln_ppl=5e-3, greedy=0.5)
"""Where an engine computes with quantised blocks it may round activations to 8 bits, as llama.cpp does."""


def bounds(precision: str) -> Bounds:
    """Of "float32", of a block format that is computed with ("q8_0"), or of 16 bits.

    A kind of quantisation.py ("int8", "nf4") has the bounds of 16 bits: its reference has the same quantised weights.
    """
    if precision == "float32":
        return FLOAT32
    return BLOCKS if precision in QUANTISED else SIXTEEN_BIT
