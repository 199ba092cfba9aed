"""On a GPU: both configurations against the float32 reference, and what the recorded steps cannot show."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_vllm.engine import VllmEngine
from engine_vllm.settings import BLOCK_POSITIONS
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference
from enginebench_protocol.engine import GREEDY, Sampling
from enginebench_protocol.messages import Load, Loaded

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]
N_PREFILL, N_DECODE = 40, 40


@pytest.fixture(scope="module", params=["default", "eager"])
def ready(
    request: pytest.FixtureRequest, gguf: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VllmEngine, Loaded]]:
    pytest.importorskip("vllm")
    engine, cache = VllmEngine(), str(tmp_path_factory.mktemp("kernels"))
    facts: dict[str, Any] = {"id": 1, "n_ctx": 128, "device": "cuda", "threads": 2, "cache": cache, "scratch": cache}
    load = Load(configuration=request.param, model_path=str(gguf("tiny")), **facts)
    yield engine, engine.load(load, lambda stage, fraction: None)
    engine.unload()


def test_prefill_and_cached_decode_pass_the_gate(ready: tuple[VllmEngine, Loaded], gguf: Callable[[str], Path]) -> None:
    model = open_checkpoint(gguf("tiny"))
    tokens = array("i", probe_ids(model.config.vocab_size, N_PREFILL + N_DECODE))
    reference = Reference(model).logits(tokens, range(N_PREFILL - 1, N_PREFILL + N_DECODE))
    found = compare(reference, np.asarray(ready[0].score(tokens, N_PREFILL)))
    assert gate(found, ready[1].precision).passed, found


@pytest.mark.parametrize("n_prompt", [1, 15, 16, 100])
def test_generated_ids_are_the_largest_scored_logits(ready: tuple[VllmEngine, Loaded], n_prompt: int) -> None:
    prompt = array("i", [(7 * i) % 4096 for i in range(n_prompt)])
    ids = list(ready[0].generate(prompt, 20))
    assert len(ids) == 20
    scored = np.asarray(ready[0].score(prompt + array("i", ids[:-1]), n_prompt))
    assert scored.argmax(axis=1).tolist() == ids


def test_nothing_of_an_earlier_prompt_is_reused(ready: tuple[VllmEngine, Loaded]) -> None:
    prompt, other = array("i", [5, 900, 3, 77, 1]), array("i", [6, 900, 3, 77, 1])
    alone = list(ready[0].generate(other, 20))
    list(ready[0].generate(prompt, 20))
    assert list(ready[0].generate(other, 20)) == alone


def test_ids_are_drawn_by_their_seed_and_a_request_that_was_given_up_leaves_nothing(
    ready: tuple[VllmEngine, Loaded],
) -> None:
    prompt = array("i", [5, 900, 3, 77, 1])
    greedy, drawn = (list(ready[0].generate(prompt, 20, sampling)) for sampling in (GREEDY, Sampling(0.8, 5)))
    assert drawn not in (greedy, list(ready[0].generate(prompt, 20, Sampling(0.8, 6))))
    for sampling in (GREEDY, Sampling(0.8, 5)):
        given_up = ready[0].generate(array("i", range(30)), 20, sampling)
        next(given_up)
        given_up.close()
        assert list(ready[0].generate(prompt, 20)) == greedy
        assert list(ready[0].generate(prompt, 20, Sampling(0.8, 5))) == drawn


def test_the_pool_that_was_allocated_is_the_one_asked_for(
    ready: tuple[VllmEngine, Loaded], gguf: Callable[[str], Path]
) -> None:
    config, blocks = open_checkpoint(gguf("tiny")).config, -(-129 // BLOCK_POSITIONS) + 1
    assert ready[1].kv_cache_bytes == blocks * BLOCK_POSITIONS * config.kv_bytes_per_token(2)
    assert ready[1].weights_bytes == 2 * config.weight_elements()
    account = ready[0].memory()
    assert account.device_peak_bytes is not None
    assert account.device_peak_bytes >= account.weights_bytes + account.kv_cache_bytes
