"""Logits against the float32 reference of the same weights, and that the gate notices what it should."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from engine_tinygrad.engine import TinygradEngine
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference

N_PREFILL, N_DECODE = 40, 40  # the prefill ends inside a chunk, the decode crosses into the next


def probe(vocab_size: int) -> array[int]:
    return array("i", probe_ids(vocab_size, N_PREFILL + N_DECODE))


def reference(path: Path) -> npt.NDArray[np.float32]:
    checkpoint = open_checkpoint(path)
    ids = probe(checkpoint.config.vocab_size)
    return Reference(checkpoint).logits(ids, range(N_PREFILL - 1, len(ids)))


def scored(engine: TinygradEngine, vocab_size: int) -> npt.NDArray[np.float32]:
    return np.asarray(engine.score(probe(vocab_size), N_PREFILL))


@pytest.mark.parametrize("model", ["tiny_gguf", "tiny_safetensors", "odd_gguf"])
def test_prefill_and_cached_decode_pass_the_gate(
    engine: TinygradEngine, loader: Any, model: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    report = loader.load(engine, path)
    found = compare(reference(path), scored(engine, report.vocab_size))
    assert found.n_positions == N_DECODE + 1
    assert gate(found, report.precision).passed, found
    assert found.mean_kld < 1e-4  # a tenth of the gate: float16 weights and cache, everything else float32
    assert found.top1 > 0.95


def test_the_gate_fires_when_rope_scaling_is_dropped(
    engine: TinygradEngine, loader: Any, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = open_checkpoint(tiny_gguf).config
    unscaled = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    monkeypatch.setattr(Checkpoint, "inverse_frequencies", unscaled.astype(np.float32))
    report = loader.load(engine, tiny_gguf)
    monkeypatch.undo()
    assert not gate(compare(reference(tiny_gguf), scored(engine, report.vocab_size)), "16-bit").passed


def test_the_gate_fires_when_positions_are_off_by_one_in_decode_only(ready: Any) -> None:
    graphs = ready.engine._ready(array("i", [1]), 1)
    ids = probe(ready.report.vocab_size)
    rows = [graphs.prefill(ids[:N_PREFILL]).read_logits()]
    rows += [graphs.decode(ids[p], p + 1).read_logits() for p in range(N_PREFILL, len(ids))]
    assert not gate(compare(reference(ready.path), np.stack(rows)), "16-bit").passed


def test_the_gate_fires_when_two_layers_are_swapped(
    engine: TinygradEngine, loader: Any, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}
    original = Checkpoint.tensor
    monkeypatch.setattr(
        Checkpoint, "tensor", lambda self, name: original(self, swapped.get(name[:9], name[:9]) + name[9:])
    )
    report = loader.load(engine, tiny_gguf)
    monkeypatch.undo()
    assert not gate(compare(reference(tiny_gguf), scored(engine, report.vocab_size)), "16-bit").passed
