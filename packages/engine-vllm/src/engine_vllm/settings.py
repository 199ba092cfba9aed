"""What vLLM is told: environment, engine arguments and sampling parameters, as plain values.

Nothing here imports vLLM: it reads its environment when it is imported. Names and meanings are those of vLLM 0.32
(vllm/envs.py, vllm/engine/arg_utils.py, vllm/sampling_params.py); the tests hold them against its own classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginebench_models.config import LlamaConfig

BLOCK_POSITIONS = 16  # positions per block of the pool: what vLLM takes on an NVIDIA GPU when nothing is said
NULL_BLOCKS = 1  # vllm/v1/core/block_pool.py keeps one for itself


@dataclass(frozen=True)
class Settings:
    """One load. `folder` is a Hugging Face model folder, `dtype` "float16" or "bfloat16"."""

    folder: Path
    config: LlamaConfig
    dtype: str
    n_ctx: int
    eager: bool
    shards: int = 1
    """Tensor parallel workers, one GPU each."""
    quantisation: str = ""
    """Of the folder's blocks; vLLM reads it in config.json."""

    @property
    def max_positions(self) -> int:
        """One more than a request may have: `score` ends with a token that nothing follows."""
        return self.n_ctx + 1


def environment(cache: Path) -> dict[str, str]:
    """To be set before vLLM is imported: the engine in this process, no network, every cache below `cache`."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_CACHE_ROOT": str(cache / "vllm"),  # torch.compile's code too
        "VLLM_CONFIG_ROOT": str(cache / "vllm"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "FLASHINFER_WORKSPACE_BASE": str(cache),
    }


def engine_arguments(settings: Settings) -> dict[str, Any]:
    """Fields of vllm.EngineArgs. What is not here is vLLM's own choice."""
    return {
        "model": str(settings.folder),
        "skip_tokenizer_init": True,
        "load_format": "safetensors",
        "generation_config": "vllm",  # none: the folder's may hold penalties and a temperature
        "dtype": settings.dtype,
        "tensor_parallel_size": settings.shards,
        "enforce_eager": settings.eager,
        "max_model_len": settings.max_positions,
        "hf_overrides": {"max_position_embeddings": max(settings.config.max_context, settings.max_positions)},
        "max_num_seqs": 1,
        "enable_prefix_caching": False,
        "block_size": BLOCK_POSITIONS,
        "kv_cache_memory_bytes": pool_bytes(settings),
        # With the pool given this is only a check before loading, which refuses a GPU that others use as well.
        "gpu_memory_utilization": 0.01,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        # For `score`: forced tokens, and logits where vLLM would give log-probabilities.
        "enable_trace_replay": True,
        "logprobs_mode": "raw_logits",
        "max_logprobs": -1,
    }


def pool_bytes(settings: Settings) -> int:
    """The smallest KV pool of each worker that holds one request of `max_positions`."""
    blocks = -(-settings.max_positions // BLOCK_POSITIONS) + NULL_BLOCKS
    heads = max(1, settings.config.n_kv_heads // settings.shards)  # fewer heads than workers: each has a copy of one
    return blocks * BLOCK_POSITIONS * 2 * settings.config.n_layers * heads * settings.config.head_dim * 2


def greedy(n_gen: int) -> dict[str, Any]:
    """Fields of vllm.SamplingParams for exactly `n_gen` ids, whatever they are."""
    return {
        "temperature": 0.0,
        "max_tokens": n_gen,
        "ignore_eos": True,
        "detokenize": False,
        "skip_clone": True,
    }


def drawn(n_gen: int, temperature: float, seed: int) -> dict[str, Any]:
    """Fields of vllm.SamplingParams for ids that vLLM draws itself: its generator is the request's, by its seed.

    top_k, top_p and min_p stay at their defaults, which leave every id its probability.
    """
    return {**greedy(n_gen), "temperature": temperature, "seed": seed}


def forced(tokens: Sequence[int]) -> dict[str, Any]:
    """Fields of vllm.SamplingParams that decode `tokens` instead of vLLM's choice, and show all logits of each step."""
    return {
        **greedy(len(tokens)),
        "trace_decode_token_ids": list(tokens),
        "logprobs": -1,
        "flat_logprobs": True,
    }
