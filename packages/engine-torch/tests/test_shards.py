"""Two ranks on one processor: the answers of one, each with half of the weights. Correctness only, never a speed-up."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_torch import ranks
from engine_torch.engine import TorchEngine
from engine_torch.shard import Shard
from engine_torch.weights import load_model
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference
from enginebench_models.sampling import chooser
from enginebench_models.synthesis import synthesise
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

N_PREFILL, N_DECODE = 24, 16
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def reference(tiny: Path) -> np.ndarray:
    probe = probe_ids(4096, N_PREFILL + N_DECODE)
    return Reference(open_checkpoint(tiny)).logits(probe, range(N_PREFILL - 1, len(probe)))


def load(path: Path, folder: Path, **changes: Any) -> tuple[TorchEngine, Loaded]:
    facts: dict[str, Any] = {"id": 1, "configuration": "half", "model_path": str(path), "n_ctx": 128, "device": "cpu"}
    engine = TorchEngine()
    facts |= {"threads": 2, "cache": str(folder), "scratch": str(folder), "shards": 2, **changes}
    return engine, engine.load(Load(**facts), lambda stage, fraction: None)


@pytest.fixture(scope="module", params=["half", pytest.param("baseline", marks=pytest.mark.slow)])
def pair(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An engine of two ranks, and what it says that it loaded."""
    engine, loaded = load(tiny, tmp_path_factory.mktemp("ranks"), configuration=request.param)
    yield engine, loaded
    engine.unload()


def scored(engine: TorchEngine) -> np.ndarray:
    return np.asarray(engine.score(array("i", probe_ids(4096, N_PREFILL + N_DECODE)), N_PREFILL))


def test_the_logits_of_two_ranks_pass_the_gate(pair: Any, reference: np.ndarray) -> None:
    engine, loaded = pair
    distance = compare(reference, scored(engine))
    assert gate(distance, loaded.precision).passed, distance


def test_generated_ids_are_those_of_one_rank(pair: Any, tiny: Path, tmp_path: Path) -> None:
    engine, loaded = pair
    name = "baseline" if loaded.precision == "float32" else "half"
    alone, _ = load(tiny, tmp_path, shards=1, configuration=name)
    prompt = array("i", [5, 6, 7, 8])
    assert list(engine.generate(prompt, 12)) == list(alone.generate(prompt, 12))
    alone.unload()


def test_a_generation_that_is_broken_off_leaves_the_ranks_in_step(pair: Any) -> None:
    engine, _ = pair
    prompt = array("i", [1, 2, 3])
    whole = list(engine.generate(prompt, 6))
    for taken in (1, 3, 5, 6):
        ids = engine.generate(prompt, 6)
        assert [next(ids) for _ in range(taken)] == whole[:taken]
        ids.close()
    assert list(engine.generate(prompt, 6)) == whole
    assert scored(engine).shape == (N_DECODE + 1, 4096)


def test_the_report_says_what_each_rank_holds(pair: Any, tiny: Path) -> None:
    """Of the matrices a half, of the norms all."""
    engine, loaded = pair
    config = open_checkpoint(tiny).config
    element_bytes = 4 if loaded.precision == "float32" else 2
    norms = (2 * config.n_layers + 1) * config.dim
    half = element_bytes * (config.weight_elements() - norms) // 2 + 4 * norms
    cache = 128 * config.kv_bytes_per_token(element_bytes) // 2
    assert (loaded.shards, loaded.threads, loaded.device_bytes) == (2, 2, [half + cache] * 2)
    assert (loaded.weights_bytes, loaded.kv_cache_bytes) == (2 * half, 2 * cache)
    assert (engine.memory().weights_bytes, engine.memory().kv_cache_bytes) == (2 * half, 2 * cache)


@pytest.mark.parametrize("name", ["self_attn.o_proj", "self_attn.q_proj"])
def test_the_gate_sees_the_part_of_another_rank(pair: Any, tiny: Path, reference: np.ndarray, name: str) -> None:
    """Negative control: rank 0 multiplies with what belongs to rank 1."""
    engine, loaded = pair
    layers = engine._decoder.model.layers
    dtype = layers[0].get_parameter(name).dtype
    other = load_model(open_checkpoint(tiny), dtype, CPU, lambda fraction: None, shard=Shard(1, 2)).layers
    swapped = [(layers[i].get_parameter(name), other[i].get_parameter(name)) for i in range(len(layers))]
    for own, foreign in swapped:
        own.data, foreign.data = foreign.data, own.data
    distance = compare(reference, scored(engine))
    for own, foreign in swapped:
        own.data, foreign.data = foreign.data, own.data
    assert not gate(distance, loaded.precision).passed
    assert gate(compare(reference, scored(engine)), loaded.precision).passed


@pytest.mark.slow
@pytest.mark.parametrize("configuration", ["optimized", "compile32"])
def test_a_compiled_step_exchanges_inside_its_graph(
    tiny: Path, tmp_path: Path, reference: np.ndarray, configuration: str
) -> None:
    engine, loaded = load(tiny, tmp_path, configuration=configuration)
    distance = compare(reference, scored(engine))
    prompt = array("i", [5, 6, 7, 8])
    ids = list(engine.generate(prompt, 6))
    scores = np.asarray(engine.score(array("i", [*prompt, *ids[:-1]]), 4))
    engine.unload()
    assert gate(distance, loaded.precision).passed, distance
    assert scores.argmax(1).tolist() == ids


# ---- parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("format_", ["gguf", "safetensors"])
def test_the_parts_of_all_ranks_are_the_whole(tmp_path: Path, format_: str, n: int) -> None:
    """Also of an untied model whose vocabulary cannot be divided."""
    shape = {"dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 4, "head_dim": 16, "hidden_dim": 96}
    config = LlamaConfig(**shape, vocab_size=515, norm_eps=1e-5, rope_theta=1e4, max_context=256, tied_embeddings=False)
    name = "odd.gguf" if format_ == "gguf" else "odd"
    checkpoint = open_checkpoint(synthesise(config, tmp_path / name, format_))
    whole = dict(load_model(checkpoint, torch.float16, CPU, lambda f: None).named_parameters())
    parts = [
        dict(load_model(checkpoint, torch.float16, CPU, lambda f: None, shard=Shard(rank, n)).named_parameters())
        for rank in range(n)
    ]
    for weight, values in whole.items():
        if values.ndim == 1:
            assert all(torch.equal(part[weight], values) for part in parts)
        else:
            by_input = weight.endswith(("o_proj", "down_proj"))
            assert torch.equal(torch.cat([part[weight] for part in parts], dim=int(by_input)), values), weight


def test_a_part_is_cut_so_that_sizes_differ_by_the_last_ranks_only() -> None:
    assert [Shard(rank, 4).count(10) for rank in range(4)] == [3, 3, 3, 1]
    assert Shard().own(10) == slice(0, 10)


def test_what_a_file_stores_as_it_is_wanted_stays_in_it(tiny: Path) -> None:
    """No copy of a part that is a run of rows: only what is cut by input has to be gathered."""
    model = load_model(open_checkpoint(tiny), torch.float16, CPU, lambda f: None, shard=Shard(1, 2))
    rows = open_checkpoint(tiny).tensor("layers.0.mlp.up_proj", slice(384, 768))
    assert rows.shape == (384, 256)
    assert np.array_equal(model.layers[0].mlp.up_proj.numpy(), rows.data)
    assert model.layers[0].mlp.up_proj.untyped_storage().nbytes() == rows.data.nbytes
    assert model.layers[0].mlp.down_proj.is_contiguous()


# ---- refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": 2, "threads": 1}, "2 shards, but 1 processor "),
        ({"shards": 1000, "threads": 1000}, "1000 shards, but 8 processors"),
        ({"configuration": "int8"}, "int8 weights are not shared among ranks"),
        ({"shards": 3, "threads": 3}, r"3 shards do not divide n_heads 4 and n_kv_heads 2 of this model"),
    ],
)
def test_ranks_that_cannot_be_are_refused_before_any_is_started(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(ranks, "default_threads", lambda: 8)
    monkeypatch.setattr(ranks, "Rank", None)
    with pytest.raises(EngineFailure, match=message) as failure:
        load(tiny, tmp_path, **changes)
    assert failure.value.code == "unsupported"


def test_drawn_ids_are_told_too(pair: Any) -> None:
    """The same seed draws the same ids, and they are those of the logits: rank 0 decides for all."""
    engine, _ = pair
    prompt, drawn = array("i", [9, 8, 7]), Sampling(temperature=1.0, seed=3)
    first = list(engine.generate(prompt, 8, drawn))
    assert list(engine.generate(prompt, 8, drawn)) == first != list(engine.generate(prompt, 8))
    scores = np.asarray(engine.score(array("i", [*prompt, *first[:-1]]), 3))
    choose = chooser(1.0, 3)
    assert [choose(row) for row in scores] == first
