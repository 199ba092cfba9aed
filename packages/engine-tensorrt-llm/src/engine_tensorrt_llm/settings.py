"""What TensorRT-LLM is told: environment, arguments of its LLM API and sampling parameters, as plain values.

Nothing here imports it. Names and meanings are those of TensorRT-LLM 1.2 (tensorrt_llm/llmapi/llm_args.py,
tensorrt_llm/sampling_params.py); tests/seam holds them against a table of these, with the defaults left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK_POSITIONS = 32  # KvCacheConfig.tokens_per_block, its default
AHEAD_POSITIONS = 1  # the overlapped scheduler runs a step ahead (py_executor_creator.py: max_seq_len + 1)
SPARE_BLOCKS = 1
NO_ID = -1


@dataclass(frozen=True)
class Settings:
    """One load. `folder` is a Hugging Face model folder in 16 bits."""

    folder: Path
    vocab_size: int
    n_ctx: int
    shards: int = 1
    """Tensor parallel workers, one GPU each. More than one are processes of their own (census.py)."""

    @property
    def max_positions(self) -> int:
        """One more than a request may have: `score` ends with a token that nothing follows."""
        return self.n_ctx + 1

    @property
    def pool_positions(self) -> int:
        """The smallest pool, in whole blocks, that holds one request of `max_positions`."""
        return (-(-(self.max_positions + AHEAD_POSITIONS) // BLOCK_POSITIONS) + SPARE_BLOCKS) * BLOCK_POSITIONS


def environment(cache: Path) -> dict[str, str]:
    """To be set before the import: the worker in this process, no network, every cache below `cache`."""
    return {
        "TLLM_WORKER_USE_SINGLE_PROCESS": "1",  # tensorrt_llm/llmapi/utils.py; for one GPU only
        "TLLM_LOG_LEVEL": "WARNING",
        "TRTLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "FLASHINFER_WORKSPACE_BASE": str(cache),
    }


def llm_arguments(settings: Settings) -> dict[str, Any]:
    """Of tensorrt_llm.LLM; what is not here is its own choice. The 16-bit type is the one config.json names."""
    return {
        "model": str(settings.folder),
        "skip_tokenizer_init": True,
        "tensor_parallel_size": settings.shards,
        "max_batch_size": 1,
        "max_seq_len": settings.max_positions,
        "max_num_tokens": settings.max_positions,  # a prompt is one piece
        "stream_interval": 1,
    }


def kv_cache_arguments(settings: Settings) -> dict[str, Any]:
    """Of KvCacheConfig. Its share of free memory stays: the smaller of the two counts."""
    return {
        "enable_block_reuse": False,
        "enable_partial_reuse": False,
        "tokens_per_block": BLOCK_POSITIONS,
        "max_tokens": settings.pool_positions,
    }


def cuda_graph_arguments() -> dict[str, Any]:
    """Of CudaGraphConfig, which would capture up to 128 requests at once."""
    return {"batch_sizes": [1]}


def greedy(n_gen: int) -> dict[str, Any]:
    """Of SamplingParams, for exactly `n_gen` ids, whatever they are. Without a tokenizer the ids have to be said."""
    return {
        "max_tokens": n_gen,
        "top_k": 1,
        "ignore_eos": True,
        "end_id": NO_ID,
        "pad_id": NO_ID,
        "detokenize": False,
    }
