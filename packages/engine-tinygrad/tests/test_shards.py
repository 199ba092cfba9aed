"""Two CPU devices of one process: the answers of one, each with half of the matrices. Correctness only, no speed-up."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from engine_tinygrad.engine import TinygradEngine
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference
from enginebench_models.synthesis import synthesise
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure

N_PREFILL, N_DECODE = 40, 16
PAIR = {"shards": 2, "threads": 4}  # two threads for each device: tinygrad takes the number once per process
PROMPT = array("i", [5, 6, 7, 8])


def probe(vocab_size: int) -> array[int]:
    return array("i", probe_ids(vocab_size, N_PREFILL + N_DECODE))


def wanted(path: Path) -> npt.NDArray[np.float32]:
    checkpoint = open_checkpoint(path)
    ids = probe(checkpoint.config.vocab_size)
    return Reference(checkpoint).logits(ids, range(N_PREFILL - 1, len(ids)))


def passes(engine: TinygradEngine, reference: npt.NDArray[np.float32]) -> bool:
    logits = np.asarray(engine.score(probe(reference.shape[1]), N_PREFILL))
    return gate(compare(reference, logits), "16-bit").passed


@pytest.fixture(scope="module")
def reference(tiny_gguf: Path) -> npt.NDArray[np.float32]:
    return wanted(tiny_gguf)


@pytest.fixture(scope="module")
def pair(tiny_gguf: Path, loader: Any) -> Iterator[Any]:
    """An engine over two devices, and what it says that it loaded."""
    engine = TinygradEngine()
    yield engine, loader.load(engine, tiny_gguf, **PAIR)
    engine.unload()


def test_two_devices_pass_the_gate(pair: Any, reference: npt.NDArray[np.float32]) -> None:
    assert passes(pair[0], reference)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, seed=7)])
def test_generated_ids_are_those_of_one_device(pair: Any, ready: Any, sampling: Sampling) -> None:
    ids = list(pair[0].generate(PROMPT, 12, sampling))
    assert ids == list(ready.engine.generate(PROMPT, 12, sampling))
    broken_off = pair[0].generate(PROMPT, 12, sampling)
    assert [next(broken_off) for _ in range(3)] == ids[:3]
    broken_off.close()
    assert list(pair[0].generate(PROMPT, 12, sampling)) == ids


def test_the_report_says_what_each_device_holds(pair: Any, tiny_gguf: Path) -> None:
    """Half of the blocks' matrices and of the cache; the table and the norms whole, a tied head being the table."""
    engine, loaded = pair
    config = open_checkpoint(tiny_gguf).config
    norms, table = (2 * config.n_layers + 1) * config.dim, config.vocab_size * config.dim
    own = 2 * (config.weight_elements() - norms - table) // 2 + 2 * table + 4 * norms
    cache = 128 * config.kv_bytes_per_token(2) // 2
    assert (loaded.shards, loaded.threads, loaded.device_bytes) == (2, 4, [own + cache] * 2)
    assert (loaded.weights_bytes, loaded.kv_cache_bytes) == (2 * own, 2 * cache)
    assert loaded.read_bytes_per_token == 2 * own - 2 * table  # of the table each device multiplies with its rows
    assert engine.memory().weights_bytes == 2 * own


def parts(tensor: Any) -> list[Any]:
    """tinygrad's buffers of a divided tensor, a device each."""
    return list(tensor.uop.src[0].buffer.bufs)


def test_the_buffers_are_as_large_as_reported(pair: Any) -> None:
    engine, loaded = pair
    llama = engine._graphs.llama
    own = [part.nbytes for part in parts(llama.weights.layers[0].k_proj)]
    assert own == [llama.config.n_kv_heads * llama.config.head_dim * llama.config.dim] * 2
    caches = [part.nbytes for cache in llama.caches for part in parts(cache)]
    assert sum(caches) == loaded.kv_cache_bytes


def test_no_whole_copy_of_a_cut_matrix_stays_behind(pair: Any, tiny_gguf: Path) -> None:
    from engine_tinygrad.weights import load_weights
    from tinygrad import Device

    devices = pair[0]._graphs.llama.devices
    weights = load_weights(open_checkpoint(tiny_gguf), devices, lambda fraction: None)
    kept = [sum(size * len(free) for (size, _), free in Device[d].allocator.cache.items()) for d in devices]
    assert max(kept) < weights.layers[0].k_proj.nbytes(), kept
    del weights


def exchange(layers: Any, name: str) -> None:
    for layer in layers:
        first, second = parts(getattr(layer, name))
        values = [bytearray(part.nbytes) for part in (first, second)]
        for part, value in zip((first, second), values, strict=True):
            part.copyout(memoryview(value))
        first.copyin(memoryview(values[1]))
        second.copyin(memoryview(values[0]))


@pytest.mark.parametrize("name", ["o_proj", "q_proj"])
def test_the_gate_sees_the_part_of_another_device(pair: Any, reference: npt.NDArray[np.float32], name: str) -> None:
    """Negative control: each device multiplies with what belongs to the other."""
    layers = pair[0]._graphs.llama.weights.layers
    exchange(layers, name)
    wrong = passes(pair[0], reference)
    exchange(layers, name)
    assert not wrong
    assert passes(pair[0], reference)


@pytest.mark.slow
def test_an_untied_model_of_odd_sizes(engine: TinygradEngine, loader: Any, tmp_path: Path) -> None:
    """A vocabulary that two do not divide is whole on each; halves that are no multiple of 64 take no lanes."""
    shape = {"dim": 96, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 40, "hidden_dim": 200}
    config = LlamaConfig(
        **shape, vocab_size=1003, norm_eps=1e-5, rope_theta=1e4, max_context=256, tied_embeddings=False
    )
    path = synthesise(config, tmp_path / "odd.gguf")
    loader.load(engine, path, **PAIR)
    assert passes(engine, wanted(path))


# ---- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"shards": 3, "threads": 2}, "3 shards, but [12] processor"),
        ({"configuration": "int8", **PAIR}, "int8 weights are not divided among devices"),
        ({"configuration": "nf4", **PAIR}, "nf4 weights are not divided among devices"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    engine: TinygradEngine, loader: Any, tiny_gguf: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(EngineFailure, match=complaint) as failure:
        loader.load(engine, tiny_gguf, **changes)
    assert failure.value.code == "unsupported"
    assert failure.value.hint


def test_sizes_that_the_number_of_devices_does_not_divide_are_refused(
    engine: TinygradEngine, loader: Any, odd_gguf: Path
) -> None:
    with pytest.raises(EngineFailure, match="2 shards do not divide n_heads 3 and n_kv_heads 1 of this model"):
        loader.load(engine, odd_gguf, **PAIR)
