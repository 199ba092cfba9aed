"""The very network that the builder gets, run by the interpreter, against the float32 reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from engine_tensorrt.account import held
from engine_tensorrt.library import Library
from engine_tensorrt.model import (
    IDS,
    LAST,
    LOGITS,
    NEXT_ID,
    NEXT_POSITIONS,
    POSITIONS,
    START,
    UPDATED,
    LlamaNetwork,
    Style,
    cache_names,
)
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids

from .conftest import CONFIGS, Maker, reference
from .interpreter import Interpreter

NUMPY = {"float32": "float32", "float16": "float16", "bfloat16": "float32"}  # the interpreter's
N_CTX, N_PREFILL, N_TOKENS = 48, 20, 34
BASIC, FUSED = Style("float32", N_CTX, fused=False), Style("float16", N_CTX, fused=True)


class Running:
    """One sequence on an interpreted network: its cache, and what it answered last."""

    def __init__(self, trt: Any, made: LlamaNetwork) -> None:
        config, style = made.config, made.style
        self.interpreter = Interpreter(trt, made)
        shape = (1, config.n_kv_heads, style.n_ctx, config.head_dim)
        self.cache = {name: np.zeros(shape, NUMPY[style.dtype]) for name in cache_names(config)}
        self.length = 0

    def run(self, ids: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
        positions = np.arange(self.length, self.length + len(ids), dtype=np.int32)
        start, last = np.array([self.length], np.int32), np.array([len(ids) - 1], np.int32)
        given = {IDS: np.array(ids, np.int32), POSITIONS: positions, START: start, LAST: last}
        results = self.interpreter.run({**given, **self.cache})
        self.cache = {name: results[UPDATED + name] for name in self.cache}
        self.length += len(ids)
        assert results[NEXT_POSITIONS].tolist() == (positions + 1).tolist()
        return results


def scored(trt: Any, made: LlamaNetwork, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """Prefill, then cached decode one by one: what the engine's score gives."""
    sequence = Running(trt, made)
    rows = [sequence.run(ids[:N_PREFILL])[LOGITS][0]]
    rows += [sequence.run([token])[LOGITS][0] for token in ids[N_PREFILL:]]
    return np.stack(rows)


def probe(path: Path) -> list[int]:
    return probe_ids(open_checkpoint(path).config.vocab_size, N_TOKENS)


@pytest.mark.parametrize("name", [*CONFIGS, "tiny safetensors"])
@pytest.mark.parametrize(("style", "precision"), [(BASIC, "float32"), (FUSED, "16-bit")])
def test_prefill_and_cached_decode_equal_the_reference(
    library: Library, make_network: Maker, models: dict[str, Path], name: str, style: Style, precision: str
) -> None:
    ids = probe(models[name])
    made = make_network(open_checkpoint(models[name]), style)
    found = compare(reference(models[name], ids, N_PREFILL - 1), scored(library.trt, made, ids))
    assert found.n_positions == N_TOKENS - N_PREFILL + 1
    assert gate(found, precision).passed, found
    assert found.max_abs_logit < (1e-4 if precision == "float32" else 0.1)


@pytest.mark.parametrize("name", ["tiny", "untied, no RoPE scaling", "1 KV head", "8 KV heads"])
@pytest.mark.parametrize(
    ("style", "precision", "largest"),
    [
        (Style("bfloat16", N_CTX, fused=True), "16-bit", 5e-4),
        (Style("bfloat16", N_CTX, fused=False), "16-bit", 5e-4),
        (Style("float16", N_CTX, fused=True, eight_bit="int8"), "int8", 1e-5),
        (Style("float16", N_CTX, fused=False, eight_bit="int8"), "int8", 1e-5),
        (Style("float16", N_CTX, fused=True, eight_bit="fp8"), "fp8", 1e-5),
    ],
)
def test_other_precisions_pass_the_gate_of_their_class(
    library: Library,
    make_network: Maker,
    models: dict[str, Path],
    name: str,
    style: Style,
    precision: str,
    largest: float,
) -> None:
    ids = probe(models[name])
    made = make_network(open_checkpoint(models[name]), style)
    logits = scored(library.trt, made, ids)
    found = compare(reference(models[name], ids, N_PREFILL - 1, precision), logits)
    assert gate(found, precision).passed, found
    assert found.mean_kld < largest
    unchanged = compare(reference(models[name], ids, N_PREFILL - 1), logits)
    assert unchanged.mean_kld > 3e-5  # the weights or products are of that type: float16 is 2e-6 away


@pytest.mark.parametrize("style", [BASIC, FUSED])
def test_logits_for_all_positions_are_those_of_each_prefix(
    library: Library, make_network: Maker, models: dict[str, Path], style: Style
) -> None:
    ids, checkpoint = probe(models["untied"]), open_checkpoint(models["untied"])
    every = Running(library.trt, make_network(checkpoint, replace(style, last_only=False)))
    results = every.run(ids)
    assert results[LOGITS].shape == (N_TOKENS, checkpoint.config.vocab_size)
    assert results[NEXT_ID].tolist() == results[LOGITS].argmax(axis=1).tolist()
    last = Running(library.trt, make_network(checkpoint, style)).run(ids)
    np.testing.assert_allclose(last[LOGITS][0], results[LOGITS][-1], atol=1e-5 if style is BASIC else 2e-2)
    assert last[NEXT_ID].tolist() == [int(last[LOGITS].argmax())]


def test_a_cache_with_leftovers_of_a_longer_sequence_changes_nothing(
    library: Library, make_network: Maker, models: dict[str, Path]
) -> None:
    ids, made = probe(models["tiny"]), make_network(open_checkpoint(models["tiny"]), FUSED)
    clean, used = Running(library.trt, made), Running(library.trt, made)
    used.run(ids[::-1])
    used.length = 0
    expected, found = clean.run(ids[:5]), used.run(ids[:5])
    assert np.array_equal(expected[LOGITS], found[LOGITS])


@pytest.mark.parametrize(("eight_bit", "precision"), [("", "16-bit"), ("int8", "int8"), ("fp8", "fp8")])
def test_the_comparison_fires_when_rope_scaling_is_dropped(
    library: Library,
    make_network: Maker,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    eight_bit: str,
    precision: str,
) -> None:
    ids, config = probe(models["tiny"]), CONFIGS["tiny"]
    unscaled = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "inverse_frequencies", unscaled.astype(np.float32))
        made = make_network(open_checkpoint(models["tiny"]), replace(FUSED, eight_bit=eight_bit))
    expected = reference(models["tiny"], ids, N_PREFILL - 1, precision)
    assert not gate(compare(expected, scored(library.trt, made, ids)), precision).passed


def test_the_comparison_fires_when_decoding_attends_to_the_next_position_too(
    library: Library, make_network: Maker, models: dict[str, Path]
) -> None:
    ids, made = probe(models["tiny"]), make_network(open_checkpoint(models["tiny"]), FUSED)
    sequence = Running(library.trt, made)
    rows = [sequence.run(ids[:N_PREFILL])[LOGITS][0]]
    for token in ids[N_PREFILL:]:
        sequence.length += 1  # writes and sees one position further than it should
        rows.append(sequence.run([token])[LOGITS][0])
        sequence.length -= 1
    assert not gate(compare(reference(models["tiny"], ids, N_PREFILL - 1), np.stack(rows)), "16-bit").passed


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("style", [BASIC, FUSED])
def test_inputs_outputs_and_parameters_are_those_of_the_model(
    library: Library, make_network: Maker, models: dict[str, Path], name: str, style: Style
) -> None:
    trt, checkpoint = library.trt, open_checkpoint(models[name])
    config, made = checkpoint.config, make_network(checkpoint, style)
    network = made.network
    inputs = {t.name: (tuple(t.shape), t.dtype) for t in map(network.get_input, range(network.num_inputs))}
    outputs = {t.name: (tuple(t.shape), t.dtype) for t in map(network.get_output, range(network.num_outputs))}
    compute = trt.float32 if style is BASIC else trt.float16
    cache = ((1, config.n_kv_heads, N_CTX, config.head_dim), compute)
    caches = {f"{kind}.{layer}": cache for layer in range(config.n_layers) for kind in ("keys", "values")}
    ints = {"ids": ((-1,), trt.int32), "positions": ((-1,), trt.int32)}
    assert inputs == {**ints, "start": ((1,), trt.int32), "last": ((1,), trt.int32), **caches}
    assert outputs == {
        "logits": ((1, config.vocab_size), trt.float32),
        "next_id": ((1,), trt.int32),
        "next_positions": ((-1,), trt.int32),
        **{f"updated.{name}": facts for name, facts in caches.items()},
    }
    account = held(trt, made, checkpoint.names())
    assert account.parameters == config.weight_elements()
    norms = (2 * config.n_layers + 1) * config.dim
    itemsize = np.dtype(style.dtype).itemsize
    assert account.weights_bytes == itemsize * (config.weight_elements() - norms) + 4 * norms
    table = 0 if config.tied_embeddings else itemsize * config.vocab_size * config.dim
    assert account.read_bytes_per_token == account.weights_bytes - table
    assert (account.weight_dtype, account.activation_dtype) == (style.dtype, style.dtype)


def test_attention_is_one_layer_where_it_is_fused_and_a_softmax_where_it_is_not(
    library: Library, make_network: Maker, models: dict[str, Path]
) -> None:
    kinds = library.trt.LayerType
    for style, fused, spelled_out in ((FUSED, 4, 0), (BASIC, 0, 4)):
        network = make_network(open_checkpoint(models["tiny"]), style).network
        found = [network.get_layer(i).type for i in range(network.num_layers)]
        assert (found.count(kinds.ATTENTION_INPUT), found.count(kinds.SOFTMAX)) == (fused, spelled_out)
        assert found.count(kinds.KV_CACHE_UPDATE) == 8
        assert found.count(kinds.ROTARY_EMBEDDING) == 8
