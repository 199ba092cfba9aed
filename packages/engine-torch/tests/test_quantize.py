"""Quantised matrices: packed and restored exactly, both products right, bytes read off, faults seen by the gate."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blocks import in_q8_0
from engine_torch import processor_kernels
from engine_torch.engine import TorchEngine
from engine_torch.quantize import MATRICES, expanded, packed
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.quantisation import KINDS
from enginebench_models.reference_cache import reference_logits
from enginebench_models.synthesis import synthesise
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load

SHAPE = (70, 192)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    synthesise(entry("tiny").config, folder / "tiny.gguf")
    processor_kernels.build(folder / "kernels")
    return folder


def test_a_processor_with_other_instructions_gets_a_library_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One capability in torch's words, AVX512, is that of several processors."""

    def name_on(flags: str) -> str:
        monkeypatch.setattr(processor_kernels, "CPUINFO", tmp_path / "cpuinfo")
        processor_kernels.CPUINFO.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\n")
        return processor_kernels.compiled(str(compiler), tmp_path / "kernels").name

    compiler = tmp_path / "g++"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\n[ "$last" = --version ] || : > "$last"\n')
    compiler.chmod(0o755)
    assert name_on("fpu avx512f") == name_on("fpu avx512f") != name_on("fpu avx512f avx512_bf16")


def made(kind: str, values: np.ndarray) -> Any:
    """A filled matrix."""
    matrix = MATRICES[kind](*values.shape).to_empty(device="cpu")
    matrix.fill(slice(0, len(values)), KINDS[kind](values))
    if kind == "nf4":
        matrix.place_levels(torch.device("cpu"))
    return matrix


def test_nibbles_lie_where_the_kernel_looks_for_them() -> None:
    codes = np.arange(128, dtype=np.uint8).reshape(1, 128) % 64 // 4
    words = packed(codes)
    assert (words.shape, words.dtype) == ((1, 2, 8), np.int32)
    assert [words[0, 1, 5] >> 4 * n & 15 for n in range(8)] == [codes[0, 64 + 8 * n + 5] for n in range(8)]
    assert torch.equal(expanded(torch.from_numpy(words), torch.arange(16)).flatten(1), torch.from_numpy(codes))


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize(("n", "compiled"), [(1, True), (1, False), (3, False)])
def test_products_are_those_of_the_restored_matrix(folder: Path, kind: str, n: int, compiled: bool) -> None:
    generator = np.random.default_rng(2)
    values, x = (generator.standard_normal(shape).astype(np.float32) for shape in (SHAPE, (n, SHAPE[1])))
    values[5] *= 1e-3
    values[:, :64] *= 2.0**-20  # peaks below the normal numbers of float16
    matrix = made(kind, values)
    restored = KINDS[kind](values).float32()
    assert np.array_equal(matrix.restored(slice(3, 70)).numpy(), restored[3:])
    with torch.inference_mode():
        call = torch.compile(lambda x: matrix(x) * 1, fullgraph=True) if compiled else matrix
        np.testing.assert_allclose(call(torch.from_numpy(x)).numpy(), x @ restored.T, atol=2e-5)


def test_the_expression_for_a_gpu_is_the_same_product(folder: Path) -> None:
    values = np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)
    matrix = made("nf4", values)
    levels = expanded(matrix.packed, matrix.levels)
    restored = (levels * matrix.peaks[..., None].float()).flatten(1).numpy()
    assert np.array_equal(restored, KINDS["nf4"](values).float32())


def load(folder: Path, configuration: str, model: str = "tiny.gguf") -> tuple[TorchEngine, Any]:
    engine = TorchEngine()
    facts = {"id": 1, "configuration": configuration, "model_path": str(folder / model), "n_ctx": 128, "device": "cpu"}
    request = Load(**{**facts, "threads": 2, "cache": str(folder / "kernels"), "scratch": str(folder)})
    return engine, engine.load(request, lambda stage, fraction: None)


def nibbles_swapped(matrix: Any) -> None:
    words = matrix.packed.view(torch.uint8)
    words.copy_(words << 4 | words >> 4)


def another_table(matrix: Any) -> None:
    """Codes 12 and 13 exchanged."""
    matrix.levels[[12, 13]] = matrix.levels[[13, 12]]


def scales_of_other_rows(matrix: Any) -> None:
    scales = matrix.scales if hasattr(matrix, "scales") else matrix.peaks
    scales.copy_(scales.flip(0))


FAULTS: dict[str, list[Callable[[Any], None]]] = {
    "int8": [scales_of_other_rows],
    "nf4": [scales_of_other_rows, nibbles_swapped, another_table],
}


def spoil_all(engine: TorchEngine, spoil: Callable[[Any], None]) -> None:
    assert engine._decoder is not None
    for layer in engine._decoder.model.layers:
        spoil(layer.mlp.up_proj)


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("nf4", 4.25)])
def test_prefill_and_compiled_decode_pass_a_gate_that_sees_faults_and_bytes_are_read_off(
    folder: Path, kind: str, bits: float
) -> None:
    engine, loaded = load(folder, kind)
    probe = probe_ids(loaded.vocab_size, 40)
    expected = np.array(reference_logits(open_checkpoint(folder / "tiny.gguf"), probe, 24, folder, kind))

    def passes() -> bool:
        return gate(compare(expected, np.asarray(engine.score(array("i", probe), 24))), loaded.precision).passed

    assert passes()
    for spoil in FAULTS[kind]:  # negative controls, on the engine itself
        spoil_all(engine, spoil)
        assert not passes(), spoil
        spoil_all(engine, spoil)
    assert passes(), "done twice they are undone"
    config = entry("tiny").config
    norms = (2 * config.n_layers + 1) * config.dim
    table = config.vocab_size * config.dim
    blocks = config.weight_elements() - norms - table
    rows = config.n_layers * (config.query_dim() + 2 * config.kv_dim() + 2 * config.dim + 2 * config.hidden_dim)
    scales = 4 * rows if kind == "int8" else 0
    assert (loaded.precision, loaded.weight_dtype) == (kind, kind)
    assert loaded.weights_bytes == blocks * bits / 8 + scales + 2 * table + 4 * norms
    assert loaded.read_bytes_per_token == loaded.weights_bytes == engine.memory().weights_bytes
    assert loaded.stages["convert"] > 0


def test_rows_that_nf4_cannot_cut_are_refused(folder: Path) -> None:
    synthesise(replace(entry("tiny").config, hidden_dim=200), folder / "odd.gguf")
    with pytest.raises(EngineFailure, match="rows of 200 weights are not whole runs of 64") as failure:
        load(folder, "nf4", "odd.gguf")
    assert failure.value.code == "unsupported"


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_file_of_blocks_is_not_quantised_again(folder: Path, kind: str) -> None:
    with pytest.raises(EngineFailure, match="holds q8_0: quantising starts from") as failure:
        in_q8_0(folder / "tiny.gguf", folder / "q8_0.gguf")
        load(folder, kind, "q8_0.gguf")
    assert failure.value.code == "unsupported"
