"""Our arguments against the installed vLLM's own classes, and what its own configuration makes of them on an H200."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_vllm import settings
from engine_vllm.engine import VllmEngine
from engine_vllm.settings import (
    BLOCK_POSITIONS,
    Settings,
    drawn,
    engine_arguments,
    environment,
    forced,
    greedy,
    pool_bytes,
)
from enginebench_models.catalogue import entry

pytestmark = pytest.mark.filterwarnings("ignore")  # what vLLM and its libraries say while they are imported
TINY = entry("tiny").config


def test_every_argument_is_a_field_of_vllms_own_class() -> None:
    from vllm import EngineArgs, SamplingParams

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    assert set(engine_arguments(Settings(Path("m"), TINY, "float16", 8, eager=False))) <= known
    assert set(forced([1, 2])) | set(drawn(2, 0.8, 5)) <= set(SamplingParams.__struct_fields__)


def test_every_variable_is_one_that_vllm_or_a_library_of_it_reads() -> None:
    from vllm.envs import environment_variables

    ours = set(environment(Path("c")))
    others = {"HF_HUB_OFFLINE", "GLOO_SOCKET_IFNAME", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"}
    assert ours - set(environment_variables) == others


def test_default_is_compiled_with_cuda_graphs_and_eager_has_neither(configured: Callable[..., Any]) -> None:
    compiled, eager = (configured(eager=e).compilation_config for e in (False, True))
    assert (compiled.mode.name, compiled.cudagraph_mode.name) == ("VLLM_COMPILE", "FULL_AND_PIECEWISE")
    assert 1 in compiled.cudagraph_capture_sizes
    assert (eager.mode.name, eager.cudagraph_mode.name) == ("NONE", "NONE")


def test_nothing_is_kept_between_requests_and_one_runs_at_a_time(configured: Callable[..., Any]) -> None:
    config = configured(eager=False)
    assert config.cache_config.enable_prefix_caching is False
    assert config.scheduler_config.max_num_seqs == 1
    assert config.speculative_config is None
    assert config.parallel_config.distributed_executor_backend == "uni"


def test_prefix_caching_would_be_on_by_itself(configured: Callable[..., Any]) -> None:
    """Negative control of the test above."""
    assert configured({"enable_prefix_caching": None}, eager=False).cache_config.enable_prefix_caching is True


@pytest.mark.parametrize(("n_ctx", "at_once"), [(128, 129), (40_000, 16_384)])
def test_a_prompt_goes_at_once_as_far_as_vllm_lets_it_on_this_gpu(
    configured: Callable[..., Any], n_ctx: int, at_once: int
) -> None:
    assert configured(eager=False, n_ctx=n_ctx).scheduler_config.max_num_batched_tokens == at_once


def test_forced_tokens_run_on_the_model_runner_that_vllm_chooses_by_itself(configured: Callable[..., Any]) -> None:
    config = configured(eager=False)
    assert config.use_v2_model_runner
    assert config.model_config.enable_trace_replay


def test_the_whole_context_of_a_model_can_be_used(configured: Callable[..., Any]) -> None:
    config = configured(eager=False, n_ctx=TINY.max_context)
    assert config.model_config.max_model_len == TINY.max_context + 1
    scaling = config.model_config.hf_config.rope_parameters
    assert (scaling["rope_type"], scaling["original_max_position_embeddings"]) == ("llama3", 8192)


def test_more_positions_than_the_model_has_are_refused_without_the_override(configured: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="max_model_len"):
        configured({"hf_overrides": {}}, eager=False, n_ctx=TINY.max_context)


def test_shards_are_tensor_parallel_workers(configured: Callable[..., Any]) -> None:
    parallel = configured(eager=False, shards=2).parallel_config
    assert (parallel.tensor_parallel_size, parallel.distributed_executor_backend) == (2, "mp")


@pytest.mark.parametrize("n_ctx", [15, 16, 128, 1000])
def test_the_pool_is_the_smallest_that_vllm_accepts(configured: Callable[..., Any], n_ctx: int) -> None:
    config = configured(eager=False, n_ctx=n_ctx)
    needed = -(-(n_ctx + 1) // BLOCK_POSITIONS)
    assert blocks_of(config, config.cache_config.kv_cache_memory_bytes) == needed + 1
    with pytest.raises(ValueError, match="KV cache"):
        blocks_of(config, config.cache_config.kv_cache_memory_bytes - 1)


def blocks_of(config: Any, n_bytes: int) -> int:
    """The blocks that vLLM's own planner makes of a pool, for the layers of this model."""
    import torch
    from vllm.v1.core.kv_cache_utils import get_kv_cache_configs
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    config.cache_config.kv_cache_layout = config.cache_config.kv_cache_layout or "NHD"
    spec = FullAttentionSpec(
        block_size=config.cache_config.block_size,
        num_kv_heads=TINY.n_kv_heads,
        head_size=TINY.head_dim,
        dtype=torch.bfloat16,
    )
    layers = {f"model.layers.{i}.self_attn.attn": spec for i in range(TINY.n_layers)}
    return int(get_kv_cache_configs(config, [layers], [n_bytes])[0].num_blocks)


def test_the_pool_is_shared_out_among_workers() -> None:
    whole, shared = (pool_bytes(Settings(Path("m"), TINY, "float16", 128, False, shards)) for shards in (1, 2))
    assert shared * 2 == whole
    many = Settings(Path("m"), TINY, "float16", 128, False, 2 * TINY.n_kv_heads)
    assert pool_bytes(many) * TINY.n_kv_heads == whole  # each worker has a copy of one head


def test_no_end_of_sequence_and_no_text() -> None:
    from vllm import SamplingParams

    params = SamplingParams(**greedy(7))
    assert (params.max_tokens, params.ignore_eos, params.detokenize, params.temperature) == (7, True, False, 0.0)
    assert (params.stop, params.logprobs) == ([], None)


def test_the_table_in_pyproject_names_the_configurations_of_the_class() -> None:
    table = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["enginebench"]["engine"]
    assert {n: c["description"] for n, c in table["configurations"].items()} == dict(VllmEngine.configurations)
    assert table["gpu"] == "required"


def test_the_mapping_imports_no_vllm() -> None:
    """Its environment has to be set before vLLM is imported."""
    assert "vllm" not in vars(settings)
