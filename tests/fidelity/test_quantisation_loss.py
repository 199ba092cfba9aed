"""What quantising loses, beside llama.cpp's formats on the same matrices: int8 against Q8_0, nf4 against Q4_0.

ggml's own reference quantiser (gguf.quants) makes the blocks; all else is the float32 reference, so that only the
weights differ.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.fidelity import compare, probe_ids
from enginebench_models.quantisation import QuantisedWeights, is_quantised
from enginebench_models.reference import Reference, Weights
from enginebench_models.synthesis import synthesise
from enginebench_models.tensor import Tensor
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

FIRST_POSITION, N_TOKENS = 64, 512
"""Enough positions that chance moves a ratio of two means by some 3 % only."""


class Blocks(QuantisedWeights):
    """The same matrices through one of ggml's formats."""

    def tensor(self, name: str) -> Tensor:
        stored = self.weights.tensor(name)
        if not is_quantised(name, stored.shape):
            return stored
        kind = GGMLQuantizationType[self.kind]
        restored = np.empty(stored.shape, np.float32)
        for first in range(0, stored.shape[0], 256):
            rows = slice(first, first + 256)
            restored[rows] = dequantize(quantize(stored.rows(rows).float32(), kind), kind)
        return Tensor(name, stored.shape, "f32", restored, stored.file, stored.offset)


@pytest.fixture(scope="module", params=["tiny", pytest.param("llama3-1b", marks=pytest.mark.slow)])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    path: Path = synthesise(entry(request.param).config, tmp_path_factory.mktemp("model") / "model.gguf")
    yield open_checkpoint(path)
    path.unlink()


def test_int8_and_nf4_lose_what_the_formats_of_their_size_lose(checkpoint: Checkpoint) -> None:
    """One scale for a row is coarser than one for 32 weights, and one for 64 (4.25 bits) than one for 32 (4.5 bits).

    A divergence grows with the squared errors of the weights: those of int8 are 1.8 (tiny) and 2.3 times (1B) those of
    Q8_0 on the same matrices, those of nf4 1.15 times those of Q4_0, as on any normal numbers.
    """
    lost = losses(checkpoint)
    assert 0 < lost["Q8_0"] < lost["int8"] < 2.5 * lost["Q8_0"], lost
    assert lost["int8"] < lost["nf4"] < 1.25 * lost["Q4_0"], lost


def losses(checkpoint: Checkpoint) -> dict[str, float]:
    """Mean KL divergence from the unquantised weights over the last positions of random ids, nat."""
    ids = probe_ids(checkpoint.config.vocab_size, N_TOKENS)
    positions = range(FIRST_POSITION, N_TOKENS)
    plain = Reference(checkpoint).logits(ids, positions)
    ways: dict[str, Weights] = {kind: QuantisedWeights(checkpoint, kind) for kind in ("int8", "nf4")}
    ways |= {kind: Blocks(checkpoint, kind) for kind in ("Q8_0", "Q4_0")}
    return {kind: compare(plain, Reference(way).logits(ids, positions)).mean_kld for kind, way in ways.items()}
