"""Sampling: a logits processor that draws an id, as every engine with a loop of its own does, and lets only that win.

TensorRT-LLM's sampler has one random generator for all requests (TorchSampler.get_generator), whatever the seed in
SamplingParams: the same request would not draw the same ids again.
"""

from __future__ import annotations

from typing import Any

from enginebench_models.sampling import draw, generator


class Drawn:
    """tensorrt_llm.sampling_params.LogitsProcessor, whose parameters are counted. Can be pickled, for a worker."""

    def __init__(self, temperature: float, seed: int, vocab_size: int) -> None:
        self.temperature = temperature
        self.rng = generator(seed)
        self.vocab_size = vocab_size

    def __call__(self, req_id: int, logits: Any, token_ids: Any, stream_ptr: int | None, client_id: int | None) -> None:
        """`logits`: a float32 tensor [beams = 1, 1, vocab] on the GPU, where a step that is run ahead comes last."""
        token = draw(logits.float().cpu().numpy().reshape(-1)[: self.vocab_size], self.temperature, self.rng)
        logits.fill_(float("-inf"))
        logits[..., token] = 0.0
