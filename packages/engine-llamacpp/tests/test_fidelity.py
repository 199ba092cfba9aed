"""llama.cpp as the independent witness of the weights: its logits against the float32 reference of the same file.

llama.cpp reads the file itself, so RoPE scaling, the order of the Q and K rows, tied tables and every quantised format
are read twice here, by two programs that share no code.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from engine_llamacpp.engine import LlamacppEngine
from enginebench_models import checkpoint as checkpoint_module
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference
from enginebench_models.synthesis import synthesise

N_PREFILL, N_DECODE = 40, 40


def probe(path: Path) -> array[int]:
    return array("i", probe_ids(open_checkpoint(path).config.vocab_size, N_PREFILL + N_DECODE))


def reference(path: Path) -> npt.NDArray[np.float32]:
    return Reference(open_checkpoint(path)).logits(probe(path), range(N_PREFILL - 1, N_PREFILL + N_DECODE))


def scored(engine: LlamacppEngine, path: Path) -> npt.NDArray[np.float32]:
    return np.asarray(engine.score(probe(path), N_PREFILL))


@pytest.mark.parametrize("model", ["tiny", "odd"])
def test_prefill_and_cached_decode_pass_the_gate(
    engine: LlamacppEngine, loader: Callable[..., Any], model: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    report = loader(engine, path)
    found = compare(reference(path), scored(engine, path))
    assert found.n_positions == N_DECODE + 1
    assert gate(found, report.precision).passed, found
    assert found.mean_kld < 1e-4  # a tenth of the gate
    assert found.top1 == 1.0


# Mean KL divergence from the reference of the same, dequantised file. llama.cpp rounds activations to the dtype of a
# 16-bit weight, and to 8 bits where the weight is quantised: that rounding is what is measured here.
# The bounds are two to three times what was found on six probes.
FORMATS = {
    "ALL_F32": ("float32", "16-bit", 1e-5),  # the cache is float16
    "BF16": ("bfloat16", "16-bit", 1e-4),
    "Q8_0": ("q8_0", "q8_0", 1e-3),
    "Q4_0": ("q4_0,q6_k", "q4_0", 1e-3),
    "Q4_K_M": ("q4_k,q6_k", "q4_k", 2e-3),
    "Q6_K": ("q6_k", "q6_k", 2e-3),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_computes_what_the_file_holds(
    engine: LlamacppEngine, loader: Callable[..., Any], quantised: Callable[[str], Path], name: str
) -> None:
    dtypes, precision, bound = FORMATS[name]
    path = quantised(name)
    report = loader(engine, path)
    assert (report.weight_dtype, report.precision) == (dtypes, precision)
    assert report.weights_bytes == sum(matrix_bytes(path)) + 4 * open_checkpoint(path).config.head_dim // 2
    found = compare(reference(path), scored(engine, path))
    assert found.mean_kld < bound, found


def matrix_bytes(path: Path) -> Iterator[int]:
    checkpoint = open_checkpoint(path)
    return (checkpoint.tensor(name).data.nbytes for name in checkpoint.names())


def test_what_quantising_lost_is_not_taken_for_what_computing_loses(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, quantised: Callable[[str], Path]
) -> None:
    """Negative control: against the model it was made from, a 4-bit file is a hundred times farther away."""
    loader(engine, quantised("Q4_K_M"))
    assert compare(reference(tiny), scored(engine, tiny)).mean_kld > 0.05


def test_the_gate_fires_when_rope_scaling_is_dropped(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    """The same weights in a file without rope_freqs."""
    unscaled = synthesise(replace(entry("tiny").config, rope_scaling=None), tmp_path / "unscaled.gguf")
    loader(engine, unscaled)
    own, other = compare(reference(unscaled), scored(engine, unscaled)), compare(reference(tiny), scored(engine, tiny))
    assert gate(own, "16-bit").passed
    assert not gate(other, "16-bit").passed


def test_the_gate_fires_when_q_and_k_rows_are_in_the_files_order(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permutation that our reader undoes and llama.cpp computes with."""
    loader(engine, tiny)
    monkeypatch.setattr(checkpoint_module, "half_split", lambda stored, heads: stored.copy())
    assert not gate(compare(reference(tiny), scored(engine, tiny)), "16-bit").passed


def test_the_gate_fires_when_two_layers_are_swapped(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader(engine, tiny)
    swapped = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}
    original = Checkpoint.tensor
    monkeypatch.setattr(
        Checkpoint, "tensor", lambda self, name: original(self, swapped.get(name[:9], name[:9]) + name[9:])
    )
    assert not gate(compare(reference(tiny), scored(engine, tiny)), "16-bit").passed
