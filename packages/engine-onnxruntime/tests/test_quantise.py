"""Weights in fewer bits: the numbers of the suite's recipes, through ONNX Runtime's own operators for them."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from engine_onnxruntime import quantise
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import Fidelity, compare, gate, probe_ids
from enginebench_models.quantisation import QuantisedWeights
from enginebench_models.reference import Reference
from enginebench_protocol.errors import EngineFailure

N_PREFILL, N_DECODE = 40, 40


def reference(path: Path, kind: str) -> npt.NDArray[np.float32]:
    checkpoint = open_checkpoint(path)
    ids = probe_ids(checkpoint.config.vocab_size, N_PREFILL + N_DECODE)
    weights = QuantisedWeights(checkpoint, kind) if kind else checkpoint
    return Reference(weights).logits(ids, range(N_PREFILL - 1, len(ids)))


def distance(ready: Any, kind: str) -> Fidelity:
    ids = array("i", probe_ids(open_checkpoint(ready.path).config.vocab_size, N_PREFILL + N_DECODE))
    return compare(reference(ready.path, kind), np.asarray(ready.engine.score(ids, N_PREFILL)))


@pytest.mark.parametrize("model", ["tiny.gguf", "tiny.safetensors"])
@pytest.mark.parametrize("kind", quantise.KINDS)
def test_prefill_and_cached_decode_pass_the_gate_of_the_recipe(
    load: Any, paths: dict[str, Path], model: str, kind: str
) -> None:
    ready = load(paths[model], kind)
    assert (ready.report.precision, ready.report.weight_dtype) == (kind, kind)
    found = distance(ready, kind)
    assert gate(found, kind).passed, found


def test_nf4_computes_in_float32(load: Any, paths: dict[str, Path]) -> None:
    assert gate(distance(load(paths["tiny.gguf"], "nf4"), "nf4"), "float32").passed


def test_rows_that_are_no_whole_blocks_are_filled_up(load: Any, paths: dict[str, Path]) -> None:
    """down_proj of this model has 200 columns, blocks have 64."""
    ready = load(paths["odd.gguf"], "int8")
    assert gate(distance(ready, "int8"), "int8").passed


@pytest.mark.parametrize("kind", ["int4", "nf4"])
def test_rows_that_are_no_whole_runs_of_a_recipe_are_refused(load: Any, paths: dict[str, Path], kind: str) -> None:
    with pytest.raises(EngineFailure, match="are not whole runs"):
        load(paths["odd.gguf"], kind)


def test_a_file_of_blocks_is_not_quantised_again(load: Any, quantised: Path) -> None:
    with pytest.raises(EngineFailure, match="holds q8_0: quantising starts from") as refused:
        load(quantised, "int4")
    assert refused.value.code == "unsupported"


def test_bytes_are_those_of_codes_and_scales(load: Any, paths: dict[str, Path]) -> None:
    config = open_checkpoint(paths["tiny.gguf"]).config
    matrices = config.n_layers * (config.layer_elements() - 2 * config.dim)
    wide = load(paths["tiny.gguf"]).report.weights_bytes
    bits = {"int8": 8 + 32 / 64, "int4": 4 + 32 / 32, "nf4": 4 + 32 / 64}
    for kind, each in bits.items():
        report = load(paths["tiny.gguf"], kind).report
        assert report.weights_bytes == wide - 2 * matrices + matrices * each / 8
        assert report.read_bytes_per_token == report.weights_bytes


# ---- negative controls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int4", "nf4"])
def test_the_gate_fires_when_nibbles_are_swapped(
    load: Any, paths: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = quantise.PACKED[kind]

    def swapped(stored: Any, threads: int, values: Any) -> Any:
        made = packed(stored, threads, values)
        for part in made:
            codes = values[part.inputs[0]]
            values[part.inputs[0]] = codes >> 4 | codes << 4
        return made

    monkeypatch.setitem(quantise.PACKED, kind, swapped)
    assert not gate(distance(load(paths["tiny.gguf"], kind), kind), kind).passed


def test_the_gate_fires_when_scales_are_those_of_the_next_row(
    load: Any, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(stored: Any, threads: int, values: Any) -> Any:
        made = quantise.packed_int8(stored, threads, values)
        scales = made[0].inputs[1]
        values[scales] = np.roll(values[scales], -(-stored.shape[1] // 64))
        return made

    monkeypatch.setitem(quantise.PACKED, "int8", shifted)
    assert not gate(distance(load(paths["tiny.gguf"], "int8"), "int8"), "int8").passed


def test_what_quantising_lost_is_not_taken_for_what_computing_loses(load: Any, paths: dict[str, Path]) -> None:
    assert not gate(distance(load(paths["tiny.gguf"], "int4"), ""), "int4").passed
