"""A file of quantised weights that an engine made of a model: is it that model, and what are its numbers?

Engine and reference both read such a file, so what is wrong in it is wrong in both: it is held against the model that
it was made of, block by block, before it may stand for it. It is known by all of its bytes, not by a few of them.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.errors import InvalidModel
from enginebench_models.making import whole
from enginebench_models.pages import give_back
from enginebench_models.storage import GGML, Floats
from enginebench_models.tensor import Tensor
from enginebench_models.validation import refuse_hostile

REVISION = 2
"""Raised with every change of what is asked of a file."""
SLICE_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class Allowed:
    """How far rounding may take a weight. `share`: of the largest weight in its block of the file.

    `integers`: the largest product of integers that a block's float16 scale is multiplied by: half the smallest float16
    times that is lost where all weights of a block are near 0.
    """

    share: float
    integers: int = 0

    @property
    def smallest(self) -> float:
        return 2.0**-25 * self.integers


FORMATS = {
    "f32": Allowed(0.0),
    "f16": Allowed(2.0**-11),
    "bf16": Allowed(2.0**-8),
    "q8_0": Allowed(0.005, 127),
    "q5_0": Allowed(0.07, 16),
    "q5_1": Allowed(0.07, 31),
    "q4_0": Allowed(0.13, 8),
    "q4_1": Allowed(0.13, 15),
    "q6_k": Allowed(0.03, 32 * 128),
    "q5_k": Allowed(0.1, 63 * 31),
    "q4_k": Allowed(0.17, 63 * 15),
}
"""Without K: half a step (a whole one at the far end of q4_0 and q5_0) and the rounding of the scale. With K, whose
scales are quantised themselves: a half more than the worst block of the synthetic 1B model needs. What has three bits
and less is not made here."""


@dataclass(frozen=True)
class MadeWeights:
    """Stands where a checkpoint stands for the reference. `fingerprint`: SHA-256 of the whole file."""

    checkpoint: Checkpoint
    fingerprint: str

    @property
    def config(self) -> LlamaConfig:
        return self.checkpoint.config

    @property
    def inverse_frequencies(self) -> Floats:
        return self.checkpoint.inverse_frequencies

    @property
    def files(self) -> list[Path]:
        return self.checkpoint.files

    def tensor(self, name: str) -> Tensor:
        return self.checkpoint.tensor(name)


def made_weights(path: Path, original: Checkpoint, remembered: Path) -> MadeWeights:
    """Raises ModelError where the file is broken, or is not `original` in fewer bits.

    `remembered`: the folder that keeps the answer for a file already seen; reading 10^9 weights takes half a minute.
    """
    refuse_hostile(path)
    made = open_checkpoint(path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    answer = remembered / f"made-{REVISION}-{original.fingerprint[:16]}-{sha256[:32]}.json"
    if not answer.exists():
        found = next(faults(made, original), None)
        made.give_back()
        original.give_back()
        with whole(answer) as kept:
            kept.write(json.dumps({"file": sha256, "model": original.fingerprint, "fault": found}).encode())
    fault = json.loads(answer.read_text())["fault"]
    if fault:
        raise InvalidModel(f"{path.name} is not {original.path.name} in fewer bits: {fault}", "not-made-of-it")
    return MadeWeights(made, sha256)


def faults(made: Checkpoint, original: Checkpoint) -> Iterator[str]:
    """What tells `made` from `original` beyond the rounding of its formats."""
    if made.config != original.config:
        yield f"its shape is {made.config}, the model's {original.config}"
        return
    if not np.array_equal(made.inverse_frequencies, original.inverse_frequencies):
        yield "its RoPE frequencies are others"
    if other := set(made.names()) ^ set(original.names()):
        yield f"weight {min(other)} is in one of them only"
        return
    for name in original.names():
        yield from weight_faults(made.tensor(name), original.tensor(name))


def weight_faults(made: Tensor, original: Tensor) -> Iterator[str]:
    allowed = FORMATS.get(made.dtype)
    if allowed is None:
        yield f"{made.name} is {made.dtype}: it must be one of {', '.join(FORMATS)}"
    elif made.shape != original.shape:
        yield f"{made.name} is {list(made.shape)}, the model's {list(original.shape)}"
    elif (error := largest_error(made, original, allowed.smallest)) > allowed.share:
        yield (
            f"a weight of {made.name} is off by {error:.2g} of the largest in its block, "
            f"{made.dtype} allows {allowed.share:g}"
        )


def largest_error(made: Tensor, original: Tensor, smallest: float) -> float:
    """Of all weights, as a share of the largest of the original's block; infinite where a number is none.

    Of each error `smallest` does not count.
    """
    block = next((storage.block for storage in GGML.values() if storage.name == made.dtype), 1)
    step = max(1, SLICE_ELEMENTS // made.shape[-1]) if len(made.shape) > 1 else made.shape[0]
    worst = 0.0
    for start in range(0, made.shape[0], step):
        rows = slice(start, start + step)
        wanted, found = original.rows(rows).float32(), made.rows(rows).float32()
        peaks = np.abs(wanted.reshape(-1, block)).max(axis=1)
        if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
            return np.inf
        errors = np.maximum(np.abs(wanted - found).reshape(-1, block).max(axis=1) - smallest, 0)
        shares = np.divide(errors, peaks, out=np.where(errors > 0, np.inf, np.float32(0)), where=peaks > 0)
        worst = max(worst, float(shares.max()))
        give_back(made.data[rows])
        give_back(original.data[rows])
    return worst
