"""Which bytes of a checkpoint one decoded token must read, and their copy into a reader's memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.pages import give_back

Bytes = npt.NDArray[np.uint8]

_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""The file's short names, as the other engines spell them."""


class Reader(Protocol):
    """Memory of a device, and the fastest way through it."""

    n_bytes: int
    """All that one `read` goes through."""
    device_name: str

    def fill(self, offset: int, data: Bytes) -> None:
        """Put `data` at `offset`."""

    def read(self) -> int:
        """Read everything once. Returns a checksum that no byte can be left out of without reading it."""

    def close(self) -> None:
        """Give the memory back."""


@dataclass(frozen=True)
class Stored:
    """One weight as it lies in the file."""

    name: str
    dtype: str
    n_bytes: int


def read_per_token(checkpoint: Checkpoint) -> list[Stored]:
    """All weights but an untied embedding table, of which a token needs one row (docs/methodology.md, MBU)."""
    skipped = () if checkpoint.config.tied_embeddings else ("embed_tokens",)
    tensors = [checkpoint.tensor(name) for name in checkpoint.names() if name not in skipped]
    return [Stored(t.name, _DTYPES.get(t.dtype, t.dtype), t.data.nbytes) for t in tensors]


def total_bytes(weights: list[Stored]) -> int:
    return sum(weight.n_bytes for weight in weights)


def main_dtype(weights: list[Stored]) -> str:
    """The storage type that holds most of the bytes."""
    sizes: Counter[str] = Counter()
    for weight in weights:
        sizes[weight.dtype] += weight.n_bytes
    return sizes.most_common(1)[0][0]


def copy_weights(
    checkpoint: Checkpoint, weights: list[Stored], reader: Reader, progress: Callable[[float], None]
) -> None:
    offset = 0
    for weight in weights:
        data = checkpoint.tensor(weight.name).data
        reader.fill(offset, data.reshape(-1).view(np.uint8))
        give_back(data)
        offset += weight.n_bytes
        progress(offset / reader.n_bytes)
