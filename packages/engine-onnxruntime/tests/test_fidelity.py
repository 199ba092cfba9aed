"""Logits against the float32 reference of the same weights, and that the gate notices what it should."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference

N_PREFILL, N_DECODE = 40, 40
MODELS = ["tiny.gguf", "tiny.safetensors", "odd.gguf", "odd.safetensors", "hidden-is-vocab.gguf"]


def probe(path: Path) -> array[int]:
    return array("i", probe_ids(open_checkpoint(path).config.vocab_size, N_PREFILL + N_DECODE))


def reference(path: Path) -> npt.NDArray[np.float32]:
    ids = probe(path)
    return Reference(open_checkpoint(path)).logits(ids, range(N_PREFILL - 1, len(ids)))


def scored(ready: Any) -> npt.NDArray[np.float32]:
    return np.asarray(ready.engine.score(probe(ready.path), N_PREFILL))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("configuration", ["default", "float32", "genai"])
def test_prefill_and_cached_decode_pass_the_float32_gate(
    load: Any, paths: dict[str, Path], model: str, configuration: str
) -> None:
    """Also where weights have 16 bits: none of them is rounded, and everything else is float32."""
    found = compare(reference(paths[model]), scored(load(paths[model], configuration)))
    assert found.n_positions == N_DECODE + 1
    assert gate(found, "float32").passed, found


@pytest.mark.parametrize("elements", [1, 96, 1000, 5000])
def test_blocks_of_any_size_give_the_same_logits(
    load: Any, paths: dict[str, Path], elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = paths["odd.gguf"]
    expected = scored(load(path))
    monkeypatch.setattr("engine_onnxruntime.session.BLOCK_ELEMENTS", elements)
    ready = load(path)
    assert len(ready.engine._decoder.weights.tensors["lm_head"]) > 1
    np.testing.assert_allclose(scored(ready), expected, atol=1e-4)


@pytest.mark.parametrize(("configuration", "precision"), [("default", "16-bit"), ("float32", "float32")])
def test_a_quantised_file_is_expanded_and_passes(
    load: Any, quantised: Path, configuration: str, precision: str
) -> None:
    ready = load(quantised, configuration)
    assert open_checkpoint(quantised).tensor("layers.0.mlp.up_proj").dtype == "q8_0"
    assert ready.report.precision == precision
    found = compare(reference(quantised), scored(ready))
    assert gate(found, precision).passed, found


@pytest.mark.parametrize("configuration", ["default", "float32", "genai"])
def test_the_gate_fires_when_rope_scaling_is_dropped(
    load: Any, paths: dict[str, Path], configuration: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = paths["tiny.gguf"]
    config = open_checkpoint(path).config
    unscaled = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    monkeypatch.setattr(Checkpoint, "inverse_frequencies", unscaled.astype(np.float32))
    ready = load(path, configuration)
    monkeypatch.undo()
    assert not gate(compare(reference(path), scored(ready)), "16-bit").passed


def test_the_gate_fires_when_rotated_pairs_are_taken_in_the_other_order(
    load: Any, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = paths["tiny.gguf"]
    monkeypatch.setattr(Checkpoint, "format", "safetensors")
    ready = load(path)
    monkeypatch.undo()
    assert not gate(compare(reference(path), scored(ready)), "16-bit").passed


def test_the_gate_fires_when_positions_are_off_by_one_in_decode_only(load: Any, paths: dict[str, Path]) -> None:
    ready = load(paths["tiny.gguf"])
    decoder, decode = ready.engine._decoder, ready.engine._decoder.decode
    decoder.decode = lambda position: decode(position + 1)
    assert not gate(compare(reference(ready.path), scored(ready)), "16-bit").passed
