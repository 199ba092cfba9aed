"""From settings to a decoder: vLLM's engine in this process, with the time that its weights took told apart.

vLLM starts in one call: a worker reads the weights, then the engine compiles, allocates its pool and captures graphs.
The executor's own start is the first of the two, so that is where the clock stands.
"""

from __future__ import annotations

import torch
from enginebench_protocol.engine import stage
from vllm import EngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor

from engine_vllm.decoding import Decoder
from engine_vllm.settings import Settings, engine_arguments


def started(settings: Settings, threads: int, stages: dict[str, int]) -> Decoder:
    """Adds "read" (GPU context and weights) and "compile" (everything after it) to `stages`, in nanoseconds."""
    torch.set_num_threads(threads)
    usage = UsageContext.LLM_CLASS  # vLLM's defaults for use without a server: how many tokens of a prompt go at once
    with stage(stages, "compile"):
        config = EngineArgs(**engine_arguments(settings)).create_engine_config(usage)
        executor = timed(Executor.get_class(config), stages)
        engine = LLMEngine(config, executor, log_stats=False, usage_context=usage)
    stages["compile"] -= stages["read"]
    return Decoder(engine, settings.config.vocab_size)


def timed(executor: type[Executor], stages: dict[str, int]) -> type[Executor]:
    class Timed(executor):  # type: ignore[valid-type, misc]
        def _init_executor(self) -> None:
            with stage(stages, "read"):
                super()._init_executor()

    return Timed
