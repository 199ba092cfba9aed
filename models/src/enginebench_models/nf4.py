"""NF4 of QLoRA (Dettmers et al. 2023): runs of 64 neighbours of a row as 4-bit codes of one table times their peak.

The peak of a run, its largest magnitude, is itself one of the weights, so float16 holds it exactly for a file of
16-bit numbers in its range: 4.25 bits a weight, where bitsandbytes' float32 takes 4.5. No second quantisation of the
peaks (QLoRA's "double quantisation", another 0.12 bits). Packing is the engines' affair.
"""

from dataclasses import dataclass

import numpy as np

from enginebench_models.errors import UnsupportedModel
from enginebench_models.storage import AnyArray, Floats

BLOCK = 64

# QLoRA, appendix E: quantiles of the normal distribution, 8 below and 9 above zero that share it, scaled to ±1.
LEVELS: Floats = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)


@dataclass(frozen=True)
class Nf4:
    """codes uint8 [out, in], 0 to 15; peaks float16 [out, in/64]."""

    codes: AnyArray
    peaks: AnyArray

    def float32(self) -> Floats:
        numbers = LEVELS[self.codes].reshape(*self.peaks.shape, BLOCK)
        restored: Floats = (numbers * self.peaks[..., None].astype(np.float32)).reshape(self.codes.shape)
        return restored


def nf4(matrix: Floats) -> Nf4:
    """Each weight at the nearest level of its run, the lower one of two equally near.

    Raises UnsupportedModel for rows that are not whole runs, and for what float16 does not reach.
    """
    if matrix.shape[1] % BLOCK:
        raise UnsupportedModel(f"rows of {matrix.shape[1]} weights are not whole runs of {BLOCK}: nf4 has only those")
    runs = matrix.reshape(len(matrix), -1, BLOCK)
    with np.errstate(over="ignore"):
        # four times as fast as a maximum over the last axis
        magnitudes = np.maximum.reduceat(np.abs(matrix).reshape(-1), np.arange(0, matrix.size, BLOCK))
        peaks = magnitudes.reshape(runs.shape[:2]).astype(np.float16)
    if not np.isfinite(peaks).all():
        raise UnsupportedModel(f"a weight of {np.abs(matrix).max():g} is beyond float16, which holds nf4's peaks")
    shares = runs / np.where(peaks > 0, peaks, np.float16(1)).astype(np.float32)[..., None]
    codes = np.zeros(shares.shape, np.uint8)
    for boundary in (LEVELS[1:] + LEVELS[:-1]) / 2:
        codes += shares > boundary
    return Nf4(codes.reshape(matrix.shape), peaks)
