"""One request at a time through the LLM API: greedy or drawn ids as they are streamed, or the logits of given ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import numpy.typing as npt

from engine_tensorrt_llm.account import Held
from engine_tensorrt_llm.census import Census, counted
from engine_tensorrt_llm.drawing import Drawn
from engine_tensorrt_llm.forcing import Forced, empty_rows, written_rows
from engine_tensorrt_llm.settings import greedy

ANY_ID = 0


class Misled(Exception):
    """TensorRT-LLM did not do what was asked."""


class Decoder:
    """`llm`: a tensorrt_llm.LLM. `sampling`: its SamplingParams. `scratch`: a folder of this launch."""

    def __init__(self, llm: Any, sampling: Callable[..., Any], vocab_size: int, n_ctx: int, scratch: Path) -> None:
        self.llm = llm
        self.sampling = sampling
        self.vocab_size = vocab_size
        self.n_ctx = n_ctx
        self.scratch = scratch

    def generate(self, prompt: Sequence[int], n_gen: int) -> Iterator[int]:
        return self._request(prompt, greedy(n_gen))

    def sample(self, prompt: Sequence[int], n_gen: int, temperature: float, seed: int) -> Iterator[int]:
        drawn = Drawn(temperature, seed, self.vocab_size)
        return self._request(prompt, greedy(n_gen) | {"logits_processor": drawn})

    def score(self, tokens: Sequence[int], n_prefill: int) -> npt.NDArray[np.float32]:
        """float32 [len(tokens) - n_prefill + 1, vocab]: what follows the prefill and each token after it.

        The last row needs one more step, whose id nothing follows. Raises Misled.
        """
        trace = [*tokens[n_prefill:], ANY_ID]
        file = self.scratch / "forced.npy"
        empty_rows(file, len(trace), self.vocab_size)
        parameters = greedy(len(trace)) | {"logits_processor": Forced(file, trace)}
        followed = list(self._request(tokens[:n_prefill], parameters))
        rows = written_rows(file)
        if followed != trace:
            raise Misled(f"TensorRT-LLM decoded {len(followed)} ids {followed[:8]}… for {len(trace)} {trace[:8]}…")
        if np.isnan(rows).any():
            raise Misled(f"TensorRT-LLM showed {np.count_nonzero(~np.isnan(rows))} of {rows.size} logits")
        return rows

    def held_by(self, workers: int) -> list[Held]:
        """What each of several workers holds. Raises Incomplete."""
        folder = Path(mkdtemp(prefix="held-", dir=self.scratch))
        list(self._request([ANY_ID], greedy(1) | {"logits_processor": Census(folder)}))
        return counted(folder, workers)

    def close(self) -> None:
        self.llm.shutdown()

    def _request(self, prompt: Sequence[int], parameters: dict[str, Any]) -> Iterator[int]:
        """The ids of each answer as it comes: one, with a stream interval of 1."""
        answer = self.llm.generate_async(list(prompt), self.sampling(**parameters), streaming=True)
        try:
            for step in answer:
                yield from step.outputs[0].token_ids_diff
        finally:
            if not answer.finished:
                answer.abort()
        if answer.cached_tokens:
            raise Misled(f"TensorRT-LLM took {answer.cached_tokens} positions of the prompt from an earlier request")
