"""What TensorRT-LLM is told, against the names and defaults recorded from its own files."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from engine_tensorrt_llm import settings
from engine_tensorrt_llm.settings import Settings

RECORD = json.loads((Path(__file__).parent / "recorded.json").read_text())
FACTS = Settings(Path("folder"), vocab_size=1003, n_ctx=128)
GIVEN: dict[str, dict[str, Any]] = {
    "LLM": {**settings.llm_arguments(FACTS), "kv_cache_config": {}, "cuda_graph_config": {}},
    "KvCacheConfig": settings.kv_cache_arguments(FACTS),
    "CudaGraphConfig": settings.cuda_graph_arguments(),
    "SamplingParams": {**settings.greedy(3), "logits_processor": None},
}


@pytest.mark.parametrize("kind", GIVEN)
def test_every_argument_is_one_that_tensorrt_llm_has_and_none_of_those_left_alone(kind: str) -> None:
    assert set(GIVEN[kind]) == set(RECORD[kind]["arguments"])
    assert not set(GIVEN[kind]) & set(RECORD[kind]["left_alone"])


@pytest.mark.parametrize("kind", GIVEN)
def test_every_argument_is_a_field_of_the_class_in_the_pinned_version(kind: str) -> None:
    """Its models forbid unknown fields: a name that is not there ends the load."""
    pins = tomllib.loads((Path(settings.__file__).parents[2] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"tensorrt-llm=={RECORD['version']}" in pins
    fields = RECORD["fields"][kind]
    assert set(GIVEN[kind]) <= set(fields)
    assert set(RECORD[kind]["left_alone"]) <= set(fields)


def test_blocks_are_of_the_default_size() -> None:
    """`pool_positions` counts in them, and some attention backends take no other."""
    assert RECORD["KvCacheConfig"]["arguments"]["tokens_per_block"] == settings.BLOCK_POSITIONS


def test_nothing_of_an_earlier_request_is_used_again() -> None:
    assert RECORD["KvCacheConfig"]["arguments"]["enable_block_reuse"] is True  # why it has to be said
    given = settings.kv_cache_arguments(FACTS)
    assert (given["enable_block_reuse"], given["enable_partial_reuse"]) == (False, False)


def test_one_request_at_a_time_and_its_prompt_in_one_piece() -> None:
    given = settings.llm_arguments(FACTS)
    assert (given["max_batch_size"], settings.cuda_graph_arguments()["batch_sizes"]) == (1, [1])
    assert given["max_num_tokens"] == given["max_seq_len"] == 129


@pytest.mark.parametrize(("n_ctx", "positions"), [(1, 64), (30, 64), (31, 96), (128, 192), (8192, 8256)])
def test_the_pool_holds_one_request_and_a_step_ahead_in_whole_blocks(n_ctx: int, positions: int) -> None:
    found = Settings(Path("folder"), 1003, n_ctx).pool_positions
    assert found == positions
    assert found % settings.BLOCK_POSITIONS == 0
    assert found - settings.BLOCK_POSITIONS >= n_ctx + 2


def test_shards_are_tensor_parallel_workers_and_the_pool_counts_positions_of_each() -> None:
    sharded = Settings(Path("folder"), 1003, 128, shards=4)
    assert settings.llm_arguments(sharded)["tensor_parallel_size"] == 4
    assert settings.kv_cache_arguments(sharded) == settings.kv_cache_arguments(FACTS)
    assert settings.llm_arguments(FACTS)["tensor_parallel_size"] == 1


def test_a_request_is_greedy_and_ends_for_nothing_but_its_length() -> None:
    given = settings.greedy(7)
    assert (given["max_tokens"], given["top_k"], given["ignore_eos"], given["end_id"]) == (7, 1, True, -1)


def test_every_cache_is_below_the_folder_that_is_kept(tmp_path: Path) -> None:
    told = settings.environment(tmp_path)
    folders = {name: value for name, value in told.items() if name.endswith(("_DIR", "_BASE"))}
    assert len(folders) == 3
    assert all(Path(value).is_relative_to(tmp_path) for value in folders.values())


def test_the_worker_is_in_this_process_and_nothing_is_asked_of_a_network(tmp_path: Path) -> None:
    told = settings.environment(tmp_path)
    assert set(RECORD["environment"]) <= set(told)
    switches = ("TLLM_WORKER_USE_SINGLE_PROCESS", "HF_HUB_OFFLINE", "TRTLLM_NO_USAGE_STATS")
    assert [told[name] for name in switches] == ["1", "1", "1"]
