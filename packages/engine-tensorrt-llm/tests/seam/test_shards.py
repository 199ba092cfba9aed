"""One model in several workers: what each holds is counted inside it, and the answers are those of one."""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_tensorrt_llm import census
from engine_tensorrt_llm.census import Census, Incomplete, counted, worker_here
from engine_tensorrt_llm.engine import TensorRtLlmEngine
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

Make = Callable[..., Path]
RequestFor = Callable[..., Load]
PROMPT = array("i", range(11, 19))


@pytest.fixture
def pair(libraries: SimpleNamespace, model: Make, request_for: RequestFor) -> tuple[TensorRtLlmEngine, Loaded]:
    libraries.torch.n_gpus = 2
    engine = TensorRtLlmEngine()
    return engine, engine.load(request_for(model("tied"), shards=2), lambda stage, fraction: None)


def test_the_report_is_what_the_workers_counted(pair: Any, model: Make) -> None:
    engine, loaded = pair
    config = open_checkpoint(model("tied")).config
    norms = (2 * config.n_layers + 1) * config.dim
    matrices = config.weight_elements() - norms - config.vocab_size * config.dim
    table = -(-config.vocab_size // 2) * config.dim
    own = 2 * (matrices // 2 + table + norms)
    cache = (64 + 32 + 32) * config.kv_bytes_per_token(2) // 2
    assert (loaded.shards, loaded.device_bytes) == (2, [own + cache] * 2)
    assert (loaded.weights_bytes, loaded.kv_cache_bytes) == (2 * own, 2 * cache)
    assert (engine.memory().weights_bytes, engine.memory().kv_cache_bytes) == (2 * own, 2 * cache)
    assert loaded.device == "2 × NVIDIA H200"
    assert engine._decoder.llm.args.tensor_parallel_size == 2


def test_ids_and_logits_are_those_of_one_worker(
    pair: Any, model: Make, request_for: RequestFor, libraries: SimpleNamespace
) -> None:
    one = TensorRtLlmEngine()
    one.load(request_for(model("tied")), lambda stage, fraction: None)
    for sampling in (Sampling(), Sampling(0.8, 5)):
        assert list(pair[0].generate(PROMPT, 8, sampling)) == list(one.generate(PROMPT, 8, sampling))
    tokens = probe_ids(1003, 24)
    rows = np.asarray(pair[0].score(array("i", tokens), 11))
    expected = Reference(open_checkpoint(model("tied"))).logits(tokens, range(10, 24))
    assert gate(compare(expected, rows), "float32").passed


def test_a_worker_that_says_nothing_is_found_out(
    libraries: SimpleNamespace, model: Make, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: one of two does not run the processor."""
    libraries.torch.n_gpus, libraries.LLM.n_silent = 2, 1
    monkeypatch.setattr("engine_tensorrt_llm.decoding.counted", lambda folder, n: counted(folder, n, seconds=0.05))
    with pytest.raises(EngineFailure, match="1 of 2 workers said what they hold"):
        TensorRtLlmEngine().load(request_for(model("tied"), shards=2), lambda stage, fraction: None)


def test_more_shards_than_gpus_are_refused(libraries: SimpleNamespace, model: Make, request_for: RequestFor) -> None:
    with pytest.raises(EngineFailure, match="2 shards, torch sees 1 GPUs") as failure:
        TensorRtLlmEngine().load(request_for(model("tied"), shards=2), lambda stage, fraction: None)
    assert failure.value.code == "unsupported"


def test_a_process_without_a_worker_says_so_and_one_with_it_is_found() -> None:
    with pytest.raises(LookupError, match="no GenerationExecutorWorker"):
        worker_here()
    kept = type(census.WORKER, (), {})()
    assert worker_here() is kept


def test_the_census_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(Census(tmp_path))).folder == tmp_path


def test_a_census_waits_for_the_slowest_and_not_for_ever(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match="0 of 2"):
        counted(tmp_path, 2, seconds=0.02)
