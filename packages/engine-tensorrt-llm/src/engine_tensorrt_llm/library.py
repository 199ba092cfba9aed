"""The seam: all that is imported of TensorRT-LLM and torch, and what is made with it.

Imported in `load` only, once the environment is set; the tests put stand-ins in place of the libraries.
"""

from __future__ import annotations

import torch
from tensorrt_llm import LLM, SamplingParams
from tensorrt_llm.llmapi import CudaGraphConfig, KvCacheConfig

from engine_tensorrt_llm.settings import Settings, cuda_graph_arguments, kv_cache_arguments, llm_arguments

OutOfMemory: type[Exception] = torch.OutOfMemoryError
sampling = SamplingParams


def started(settings: Settings, threads: int) -> LLM:
    """One call: it reads the weights, measures what a prompt takes, tunes kernels, and captures the graph."""
    torch.set_num_threads(threads)
    return LLM(
        **llm_arguments(settings),
        kv_cache_config=KvCacheConfig(**kv_cache_arguments(settings)),
        cuda_graph_config=CudaGraphConfig(**cuda_graph_arguments()),
    )


def n_gpus() -> int:
    return int(torch.cuda.device_count())


def device_name() -> str:
    return str(torch.cuda.get_device_name())


def n_threads() -> int:
    return int(torch.get_num_threads())


def cuda_version() -> str | None:
    version: str | None = torch.version.cuda
    return version
