"""The protocol verbs of an engine that reads every weight byte once per token and computes nothing.

Its decode rate is what no engine on this device can beat with these weights: rate x bytes read is the bandwidth that
memory-bandwidth utilisation (MBU) is a share of. Its prefill is one pass as well, and no bound for a real prefill,
which is limited by arithmetic. It has no logits.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.errors import ModelError
from enginebench_protocol.engine import (
    GREEDY,
    Engine,
    Logits,
    MemoryAccount,
    ProgressSink,
    Sampling,
    failing,
    must_be_greedy,
    must_be_loaded,
    stage,
)
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

from .cpu import CpuReader
from .cuda import CudaReader, load_driver
from .weights import Reader, copy_weights, main_dtype, read_per_token, total_bytes


class LimitEngine(Engine):
    """The speed of light: reads every weight byte once per token."""

    name = "limit"
    configurations: ClassVar[Mapping[str, str]] = {
        "default": "the checkpoint's own bytes, as fast as the device reads them"
    }

    def __init__(self) -> None:
        self._reader: Reader | None = None
        self._vocab_size = 0

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        stages: dict[str, int] = {}
        with stage(stages, "read"):
            with failing(ModelError):
                checkpoint = open_checkpoint(Path(request.model_path))
            weights = read_per_token(checkpoint)
            self._reader = reader = _new_reader(request, total_bytes(weights))
            copy_weights(checkpoint, weights, reader, lambda fraction: progress("read", fraction))
        self._vocab_size = checkpoint.config.vocab_size
        return _report(request, checkpoint, main_dtype(weights), reader, stages)

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        """One pass per token. The id is made of what was read, so that nothing can be left out."""
        must_be_greedy(sampling, "it computes nothing")
        reader = self._loaded()
        for _ in range(n_gen):
            yield reader.read() % self._vocab_size

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        raise EngineFailure("unsupported", "engine-limit computes nothing, hence it has no logits")

    def memory(self) -> MemoryAccount:
        reader = self._loaded()
        on_device = reader.n_bytes if isinstance(reader, CudaReader) else None
        return MemoryAccount(weights_bytes=reader.n_bytes, kv_cache_bytes=0, device_peak_bytes=on_device)

    def unload(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def _loaded(self) -> Reader:
        return must_be_loaded(self._reader)


def _new_reader(request: Load, n_bytes: int) -> Reader:
    if request.device == "cuda":
        return CudaReader(n_bytes, load_driver())
    if request.device != "cpu":
        raise EngineFailure("unsupported", f"unknown device {request.device!r}", "cpu or cuda")
    try:
        return CpuReader(n_bytes, request.threads)
    except (OSError, MemoryError) as error:
        raise EngineFailure("out-of-memory", f"no room for {n_bytes / 1e9:.2f} GB of weights: {error}") from None


def _report(request: Load, checkpoint: Checkpoint, dtype: str, reader: Reader, stages: dict[str, int]) -> Loaded:
    return Loaded(
        id=request.id,
        weights_fingerprint=checkpoint.fingerprint,
        precision="none",
        weight_dtype=dtype,
        activation_dtype="none",
        kv_dtype="none",
        device=reader.device_name,
        threads=request.threads,
        n_ctx=request.n_ctx,
        vocab_size=checkpoint.config.vocab_size,
        weights_bytes=reader.n_bytes,
        kv_cache_bytes=0,
        read_bytes_per_token=reader.n_bytes,
        stages=stages,
        versions={"numpy": np.__version__},
    )
