"""Quantised matrices in shared memory: both libraries' versions agree, pass the gate, and the gate sees faults."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_hybrid.engine import HybridEngine
from engine_hybrid.quantize import blocks, linear, quantised
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.quantisation import KINDS
from enginebench_models.reference_cache import reference_logits
from enginebench_models.synthesis import synthesise
from enginebench_protocol.errors import EngineFailure

N_PREFILL, N_DECODE = 40, 24
Models = Callable[[str], Path]


def distance(engine: HybridEngine, path: Path, kind: str, folder: Path) -> Any:
    ids = probe_ids(entry("tiny").config.vocab_size, N_PREFILL + N_DECODE)
    expected = np.array(reference_logits(open_checkpoint(path), ids, N_PREFILL, folder, kind))
    return compare(expected, np.asarray(engine.score(array("i", ids), N_PREFILL)))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_torch_restores_and_multiplies_what_the_recipe_made(models: Models, kind: str) -> None:
    stored = open_checkpoint(models("tiny")).tensor("layers.0.mlp.down_proj")
    matrix, expected = quantised(stored, kind, torch.device("cpu")), KINDS[kind](stored.float32()).float32()
    assert np.array_equal(torch.cat(list(blocks(matrix))).numpy(), expected)
    x = torch.randn(1, stored.shape[1], generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(linear(x, matrix).numpy(), x.numpy() @ expected.T, atol=1e-5)


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("nf4", 4.25)])
def test_every_region_runs_in_tinygrad_and_passes_a_gate_that_sees_faults(
    engine: HybridEngine, loader: Any, models: Models, kind: str, bits: float
) -> None:
    """That none fell back says also that tinygrad's version of each agreed with torch's."""
    loaded = loader.load(engine, models("tiny"), configuration=kind)
    assert loaded.versions["regions"].count("torch") == 0
    found = distance(engine, models("tiny"), kind, loader.cache)
    assert gate(found, loaded.precision).passed, found
    config = entry("tiny").config
    norms = (2 * config.n_layers + 1) * config.dim
    table = config.vocab_size * config.dim
    rows = config.n_layers * (config.query_dim() + 2 * config.kv_dim() + 2 * config.dim + 2 * config.hidden_dim)
    scales = 4 * rows if kind == "int8" else 0
    assert (loaded.precision, loaded.weight_dtype, loaded.kv_dtype) == (kind, kind, "float16")
    assert (
        loaded.weights_bytes == (config.weight_elements() - norms - table) * bits / 8 + scales + 2 * table + 4 * norms
    )
    assert loaded.read_bytes_per_token == loaded.weights_bytes


def test_rows_that_nf4_cannot_cut_are_refused(engine: HybridEngine, loader: Any, tmp_path: Path) -> None:
    path = synthesise(replace(entry("tiny").config, hidden_dim=200), tmp_path / "odd.gguf")
    with pytest.raises(EngineFailure, match="has rows of 200 weights, nf4 has whole runs of 64 only") as failure:
        loader.load(engine, path, configuration="nf4")
    assert failure.value.code == "unsupported"


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_file_of_blocks_is_not_quantised_again(
    engine: HybridEngine, loader: Any, models: Callable[[str], Path], kind: str
) -> None:
    with pytest.raises(EngineFailure, match="holds q8_0: quantising starts from") as failure:
        loader.load(engine, models("q8_0"), configuration=kind)
    assert failure.value.code == "unsupported"
