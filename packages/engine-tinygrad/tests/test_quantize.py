"""Quantised matrices: restored exactly, through the gate in prefill and decode, bytes read off, faults seen."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blocks import in_q8_0
from engine_tinygrad.engine import TinygradEngine
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference_cache import reference_logits
from enginebench_models.synthesis import synthesise
from enginebench_protocol.errors import EngineFailure

N_PREFILL, N_DECODE = 40, 24


def distance(engine: TinygradEngine, path: Path, kind: str, folder: Path) -> Any:
    ids = probe_ids(entry("tiny").config.vocab_size, N_PREFILL + N_DECODE)
    expected = np.array(reference_logits(open_checkpoint(path), ids, N_PREFILL, folder, kind))
    return compare(expected, np.asarray(engine.score(array("i", ids), N_PREFILL)))


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("nf4", 4.25)])
def test_a_quantised_model_passes_a_gate_that_sees_faults_and_holds_what_it_says(
    engine: TinygradEngine, loader: Any, tiny_gguf: Path, kind: str, bits: float
) -> None:
    report = loader.load(engine, tiny_gguf, configuration=kind)
    found = distance(engine, tiny_gguf, kind, loader.cache)
    assert gate(found, report.precision).passed, found
    assert found.mean_kld < 1e-4
    config = entry("tiny").config
    norms = (2 * config.n_layers + 1) * config.dim
    table = config.vocab_size * config.dim
    blocks = config.weight_elements() - norms - table
    rows = config.n_layers * (config.query_dim() + 2 * config.kv_dim() + 2 * config.dim + 2 * config.hidden_dim)
    scales = 4 * rows if kind == "int8" else 0
    assert (report.precision, report.weight_dtype, report.kv_dtype) == (kind, kind, "float16")
    assert report.weights_bytes == blocks * bits / 8 + scales + 2 * table + 4 * norms
    assert report.read_bytes_per_token == report.weights_bytes
    assert report.stages["convert"] > 0
    for spoil in (flipped, nibbles_swapped)[: 1 if kind == "int8" else 2]:  # negative controls; twice undoes them
        spoil_all(engine, spoil)
        assert not gate(distance(engine, tiny_gguf, kind, loader.cache), kind).passed, spoil
        spoil_all(engine, spoil)


def spoil_all(engine: TinygradEngine, spoil: Callable[[Any], None]) -> None:
    for layer in engine._loaded().llama.weights.layers:
        spoil(layer.up_proj)


def flipped(held: Any) -> None:
    scales = memory_of(held.scales if hasattr(held, "scales") else held.peaks)
    scales[:] = scales[::-1].copy()


def nibbles_swapped(held: Any) -> None:
    packed = memory_of(held.packed)
    packed[:] = packed << 4 | packed >> 4


def memory_of(tensor: Any) -> Any:
    """The array that the kernels read, flat."""
    return np.frombuffer(tensor.uop.buffer.as_memoryview(force_zero_copy=True), np.dtype(tensor.dtype.fmt))


def test_rows_that_nf4_cannot_cut_are_refused(engine: TinygradEngine, loader: Any, tmp_path: Path) -> None:
    path = synthesise(replace(entry("tiny").config, hidden_dim=200), tmp_path / "odd.gguf")
    with pytest.raises(EngineFailure, match="has rows of 200 weights, nf4 has whole runs of 64 only") as failure:
        loader.load(engine, path, configuration="nf4")
    assert failure.value.code == "unsupported"


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_file_of_blocks_is_not_quantised_again(
    engine: TinygradEngine, loader: Any, tiny_gguf: Path, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(EngineFailure, match="holds q8_0: quantising starts from") as failure:
        loader.load(engine, in_q8_0(tiny_gguf, tmp_path / "q8_0.gguf"), configuration=kind)
    assert failure.value.code == "unsupported"
