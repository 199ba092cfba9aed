"""Rotary embedding frequencies: the plain ones and those stretched by the `llama3` rule.

Rotation itself belongs to each engine. Source of the rule: transformers `modeling_rope_utils`,
`_compute_llama3_parameters`; llama.cpp's converter stores the divisors as the tensor `rope_freqs.weight`.
"""

import math

import numpy as np
import numpy.typing as npt

from enginebench_models.config import RopeScaling
from enginebench_models.limits import MAX_FACTOR

Floats = npt.NDArray[np.float32]


def base_frequencies(theta: float, head_dim: int) -> Floats:
    """Radians per position of each of the head_dim/2 pairs, no scaling. Shape [head_dim/2], float32."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    return (theta**-exponents).astype(np.float32)


def scaling_divisors(frequencies: Floats, scaling: RopeScaling) -> Floats:
    """What each frequency is divided by: 1 for short wavelengths, `factor` for long ones, smooth between."""
    plain = frequencies.astype(np.float64)
    wavelength = 2 * math.pi / plain
    span = scaling.high_freq_factor - scaling.low_freq_factor
    smooth = np.clip((scaling.original_context / wavelength - scaling.low_freq_factor) / span, 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / scaling.factor + smooth)).astype(np.float32)


def inverse_frequencies(theta: float, head_dim: int, scaling: RopeScaling | None) -> Floats:
    """Radians per position of each pair with the scaling applied. Shape [head_dim/2], float32."""
    plain = base_frequencies(theta, head_dim)
    return plain if scaling is None else plain / scaling_divisors(plain, scaling)


def recognise_scaling(divisors: Floats, plain: Floats) -> RopeScaling | None:
    """The rule behind a stored divisor tensor, or None where it is not Meta's (1, 4, 8192).

    GGUF keeps only the divisors. The factor is the largest of them; the other three numbers are the same
    in every published LLaMA 3 model, and are accepted only if they give back the whole tensor.
    """
    if divisors.shape != plain.shape:
        return None
    factor = float(divisors.max())
    if not 1 <= factor <= MAX_FACTOR:
        return None
    candidate = RopeScaling(factor, 1.0, 4.0, 8192)
    same = np.allclose(scaling_divisors(plain, candidate), divisors, rtol=1e-4)
    return candidate if same else None
